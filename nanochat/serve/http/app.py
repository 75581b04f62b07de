"""HTTP routes of the chat server, as an ASGI application. Prompts and replies are never logged."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import Piece, stop_tokens
from nanochat.infer.request import Finish, ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import Backend
from nanochat.serve.http.completions import ChatCompletion, Generation
from nanochat.serve.http.errors import ApiError, json_response, no_sessions
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.schema import ChatRequest, new_messages, parse_request, to_conversation, to_sampling
from nanochat.serve.http.security import Guard
from nanochat.serve.http.session_routes import add_session_routes
from nanochat.serve.http.streaming import DONE, EventStream, event, read_json, unless_gone
from nanochat.serve.key_sessions import backend_of

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
READ_SECONDS = 60.0  # for a client to read its answer, after the last token


@dataclass
class ChatServer:
    """State of a server that its routes answer from.

    `context_tokens` is what conversation and reply may have together. `keys` are the names of clients by their keys, None for a
    server that only this machine reaches. `sessions` describes the sessions, None if there are none.
    """

    backend: Backend
    tokenizer: Tokenizer
    model_name: str
    context_tokens: int
    defaults: Sampling = field(default_factory=Sampling)
    limits: WebLimits = field(default_factory=WebLimits)
    keys: Mapping[str, str] | None = None
    sessions: dict[str, Any] | None = None
    started: float = field(default_factory=time.time)

    def begin(self, request: ChatRequest, key: str = "") -> Generation:
        """Begins the replies to `request`, made with the key of that name. Raises `ApiError` if it cannot be done.

        A reply is at most as long as the server allows and the conversation leaves room for.
        """
        sampling = to_sampling(request, self.defaults)
        sampling.max_tokens = min(sampling.max_tokens, self.limits.max_reply_tokens)
        if request.session is None:
            prompt = render_prompt(self.tokenizer, to_conversation(request.messages))
            room = self.context_tokens - len(prompt)
            if room < 1:
                raise ApiError(
                    400,
                    f"the conversation has {len(prompt)} tokens; this model takes {self.context_tokens} together with its reply",
                    "messages",
                    "context_length_exceeded",
                )
            sampling.max_tokens = min(sampling.max_tokens, room)
        elif self.sessions is None:
            raise no_sessions()
        else:
            prompt = render_prompt(self.tokenizer, to_conversation(new_messages(request.messages)), first=False)
        stop, deadline = stop_tokens(self.tokenizer), time.monotonic() + self.limits.max_seconds
        asked = ReplyRequest(prompt, sampling, stop, request.n or 1, session=request.session, deadline=deadline)
        return Generation(backend_of(self.backend, key), self.tokenizer, asked, request.stops)


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
        generation = server.begin(asked, request.scope["key"])
        completion = ChatCompletion(server.model_name)
        if asked.stream:
            response = await _stream(request, asked, generation, completion, server.limits.max_seconds)
        else:
            response = await _answer(request, asked, generation, completion)
        if generation.max_tokens < (asked.max_tokens or asked.max_completion_tokens or 0):
            response.headers["x-max-tokens"] = str(generation.max_tokens)  # less than the request has
        return response

    add_session_routes(app, server.backend, server.limits, server.sessions is not None)

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_model(server)]})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        if name != server.model_name:
            raise ApiError(404, "this model does not exist; GET /v1/models lists the models", "model", "model_not_found")
        return json_response(_model(server))

    @app.get("/health")
    async def health() -> Response:
        ready, workers = server.backend.readiness()
        status = "ok" if ready == workers else "degraded" if ready else "stopped"
        return json_response({"status": status} | ({"ready": ready, "workers": workers} if workers > 1 else {}), 200 if ready else 503)

    @app.get("/stats")
    async def stats() -> Response:
        counts = {name: round(value, 2) for name, value in vars(server.backend.counts()).items()}
        return json_response({"model": server.model_name, "uptime_seconds": round(time.time() - server.started, 1), **counts})

    return Guard(app, server.keys)  # around everything: FastAPI's own answers get the same headers


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


async def _answer(request: Request, asked: ChatRequest, generation: Generation, completion: ChatCompletion) -> Response:
    """The replies, once all are complete."""
    pieces: list[list[Piece]] = [[] for _ in range(asked.n or 1)]
    finishes: list[Finish] = ["stop"] * len(pieces)

    async def collect() -> None:
        async for batch in generation.deltas():
            for delta in batch:
                pieces[delta.index] += delta.pieces
                finishes[delta.index] = delta.finish or "stop"

    try:
        await unless_gone(request, collect())
    finally:
        generation.close()
    return json_response(completion.whole(pieces, finishes, generation.usage))


async def _stream(request: Request, asked: ChatRequest, generation: Generation, completion: ChatCompletion, seconds: float) -> EventStream:
    """The replies as they come. An error before the first token is still an answer with a status of its own."""
    usage_follows = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    batches = generation.deltas()

    async def events() -> AsyncIterator[bytes]:
        batch = first
        try:
            yield b"".join(completion.opening(index, usage_follows) for index in range(asked.n or 1))
            while batch is not None:
                if text := b"".join(completion.events(delta, usage_follows) for delta in batch):
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
    return EventStream(events(), generation.close, seconds + READ_SECONDS)


def _add_page(app: FastAPI) -> None:
    for path in sorted(PAGE.iterdir()):
        content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

        async def file(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, headers={"cache-control": "no-cache"}, media_type=media_type)

        app.get("/" if path.name == "index.html" else f"/page/{path.name}", include_in_schema=False)(file)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = {404: "not found", 405: "method not allowed"}.get(error.status_code, error.detail)
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        return ApiError(500, "internal server error; the server's log has the details").response()
