"""The route that renders Markdown: what it takes and refuses, and that the others need not wait for it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from nanochat.serve.http import render_route
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.markdown_html import Rendered


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    render_route.add_render_route(app, WebLimits(max_body_bytes=1000))

    @app.exception_handler(ApiError)
    async def api_error(request: Any, error: ApiError) -> Any:
        return error.response()

    @app.get("/other")
    async def other() -> str:
        return "here"

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def post(client: httpx.AsyncClient, **request: Any) -> httpx.Response:
    return asyncio.run(client.post("/v1/render", **request))


def test_a_text_is_rendered(client: httpx.AsyncClient) -> None:
    assert post(client, json={"text": "*a* 😀"}).json() == {"html": "<p><em>a</em> 😀</p>\n", "formatted": 6}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"json": {"text": 1}}, 400),
        ({"json": {"text": "a", "more": 1}}, 400),
        ({"json": {}}, 400),
        ({"content": b'{"text": "\xff"}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"text": "\\ud800"}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"a"}, 415),
        ({"json": {"text": "a" * 1000}}, 413),
    ],
)
def test_anything_else_is_refused(client: httpx.AsyncClient, request_: dict[str, Any], status: int) -> None:
    answer = post(client, **request_)
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_others_are_answered_meanwhile_and_too_many_are_refused(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    def slow(text: str) -> Rendered:
        assert may_end.wait(20)
        return Rendered(text, len(text))

    monkeypatch.setattr(render_route, "render", slow)

    async def requests() -> list[int]:
        asked = [asyncio.ensure_future(client.post("/v1/render", json={"text": "a"})) for _ in range(render_route.MOST_WAITING)]
        await asyncio.sleep(0.2)
        other, refused = await client.get("/other"), await client.post("/v1/render", json={"text": "a"})
        may_end.set()
        return [other.status_code, refused.status_code, *(answer.status_code for answer in await asyncio.gather(*asked))]

    assert asyncio.run(requests()) == [200, 429, *[200] * render_route.MOST_WAITING]
