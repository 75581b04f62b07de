"""Route that renders Markdown for the page, in one thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request
from pydantic import ConfigDict, ValidationError
from starlette.responses import Response

from nanochat.serve.http.api.schema import Strict
from nanochat.serve.http.errors import ApiError, json_response
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.markdown_html import render
from nanochat.serve.http.streaming import read_json

MOST_WAITING = 32


class _Text(Strict):
    model_config = ConfigDict(extra="forbid")

    text: str


def add_render_route(app: FastAPI, limits: WebLimits) -> None:
    """Adds `POST /v1/render`: `{"text": Markdown}` to `{"html": …, "formatted": …}`, see `markdown_html`."""
    pool = ThreadPoolExecutor(1, "render")  # more would only take turns with the decoding
    waiting = 0

    @app.post("/v1/render")
    async def render_text(request: Request) -> Response:
        nonlocal waiting
        try:
            asked = _Text.model_validate_json(await read_json(request, limits))
        except ValidationError:
            raise ApiError(400, 'the body must be {"text": "…"}, in UTF-8', "text") from None
        if waiting >= MOST_WAITING:
            raise ApiError(429, "too many texts are being rendered; try again", None, "server_busy", {"retry-after": "1"})
        waiting += 1
        try:
            rendered = await asyncio.get_running_loop().run_in_executor(pool, render, asked.text)
        finally:
            waiting -= 1
        return json_response(vars(rendered))
