"""The chat server's routes. Prompts and replies are never logged."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import Backend
from nanochat.serve.http.completions import DONE, Completion, FinishReason, Generation, event
from nanochat.serve.http.errors import ApiError, json_response
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.schema import ChatRequest, new_messages, parse_request, to_conversation, to_sampling
from nanochat.serve.http.security import Guard
from nanochat.serve.http.session_routes import add_session_routes
from nanochat.serve.http.streaming import EventStream, read_json, unless_gone

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
READ_SECONDS = 60.0  # after the last token, for a client to read what it was sent


@dataclass
class ChatServer:
    """What the routes answer from.

    `context_tokens` is what conversation and reply may have together; `token` None is for a server that only this machine
    reaches. `sessions` says what is to be known of the sessions, None where there are none.
    """

    backend: Backend
    tokenizer: Tokenizer
    model_name: str
    context_tokens: int
    defaults: Sampling = field(default_factory=Sampling)
    limits: WebLimits = field(default_factory=WebLimits)
    token: str | None = None
    sessions: dict[str, Any] | None = None
    started: float = field(default_factory=time.time)

    def begin(self, request: ChatRequest) -> Generation:
        """Starts to write the replies that `request` asks for. Raises `ApiError` where it cannot be done."""
        sampling = to_sampling(request, self.defaults)
        if request.session is not None:
            if self.sessions is None:
                raise ApiError(400, "this server keeps no sessions; it must be started with --mc", "session", "unsupported_parameter")
            new = render_prompt(self.tokenizer, to_conversation(new_messages(request.messages)), first=False)
            return Generation(self.backend, self.tokenizer, new, sampling, 1, request.stops, request.session)
        prompt = render_prompt(self.tokenizer, to_conversation(request.messages))
        room = self.context_tokens - len(prompt)
        if room < 1:
            raise ApiError(
                400,
                f"the conversation has {len(prompt)} tokens; this model takes {self.context_tokens} together with its reply",
                "messages",
                "context_length_exceeded",
            )
        sampling = dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, room))
        return Generation(self.backend, self.tokenizer, prompt, sampling, request.n or 1, request.stops)


def create_app(server: ChatServer) -> ASGIApp:
    """The ASGI application; `server.backend` is closed with it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.backend.close)

    # No generated documentation: its pages load scripts from elsewhere.
    app = FastAPI(title="MegaContext", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_errors(app)
    _add_page(app)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await read_json(request, server.limits)
        asked = parse_request(body, server.limits, (server.model_name,))
        generation = server.begin(asked)
        completion = Completion(server.model_name)
        if asked.stream:
            return await _stream(request, asked, generation, completion, server.limits.max_seconds)
        return await _answer(request, asked, generation, completion)

    add_session_routes(app, server.backend, server.limits, server.sessions is not None)

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_model(server)]})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        if name != server.model_name:
            raise ApiError(404, "this model does not exist; /v1/models lists those that do", "model", "model_not_found")
        return json_response(_model(server))

    @app.get("/health")
    async def health() -> Response:
        alive = server.backend.alive
        return json_response({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.get("/stats")
    async def stats() -> Response:
        figures = {name: round(value, 2) for name, value in vars(server.backend.counts()).items()}
        return json_response({"model": server.model_name, "uptime_seconds": round(time.time() - server.started, 1), **figures})

    return Guard(app, server.token)  # around all of it: what FastAPI says by itself has the same headers


def _model(server: ChatServer) -> dict[str, Any]:
    return {
        "id": server.model_name,
        "object": "model",
        "created": int(server.started),
        "owned_by": "megacontext",
        "context_tokens": server.context_tokens,
        "max_reply_tokens": min(server.limits.max_reply_tokens, server.context_tokens),
        "defaults": {name: getattr(server.defaults, name) for name in ("temperature", "top_k", "top_p", "max_tokens")},
        "sessions": server.sessions and {**server.sessions, "max_document_bytes": server.limits.max_document_bytes},
    }


async def _answer(request: Request, asked: ChatRequest, generation: Generation, completion: Completion) -> Response:
    """The replies, when all are complete."""
    pieces: list[list[Piece]] = [[] for _ in range(asked.n or 1)]
    finishes: list[FinishReason] = ["stop"] * len(pieces)

    async def collect() -> None:
        async for batch in generation.news():
            for news in batch:
                pieces[news.index] += news.pieces
                finishes[news.index] = news.finish or "stop"

    try:
        await unless_gone(request, collect())
    finally:
        generation.close()
    return json_response(completion.whole(pieces, finishes, generation.usage))


async def _stream(request: Request, asked: ChatRequest, generation: Generation, completion: Completion, max_seconds: float) -> EventStream:
    """The replies as they come. What goes wrong before the first token is still an answer with a status of its own."""
    usage_follows = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    batches = generation.news()

    async def events() -> AsyncIterator[bytes]:
        batch = first
        try:
            yield b"".join(completion.opening(index, usage_follows) for index in range(asked.n or 1))
            while batch is not None:
                if text := b"".join(completion.events(news, usage_follows) for news in batch):
                    yield text
                batch = await anext(batches, None)
        except ApiError as error:
            yield event(error.body())
            return
        if usage_follows:
            yield completion.usage(generation.usage)
        yield DONE

    try:
        first = await unless_gone(request, anext(batches))
    except BaseException:
        generation.close()
        raise
    return EventStream(events(), generation.close, max_seconds + READ_SECONDS)


def _add_page(app: FastAPI) -> None:
    for path in sorted(PAGE.iterdir()):
        content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

        async def file(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, headers={"cache-control": "no-cache"}, media_type=media_type)

        app.get("/" if path.name == "index.html" else f"/page/{path.name}", include_in_schema=False)(file)


def _add_errors(app: FastAPI) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {404: "there is nothing at this path", 405: "this path does not know this method"}.get(error.status_code, error.detail)
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    async def failure(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server has failed; its log says how").response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, failure)
