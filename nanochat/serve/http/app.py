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
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import Backend
from nanochat.serve.http.api.completions import ChatCompletion
from nanochat.serve.http.api.generation import Generation, longest_reply
from nanochat.serve.http.api.ollama import add_ollama_routes, ollama_error
from nanochat.serve.http.api.prompts import chat_prompt, new_messages
from nanochat.serve.http.api.replies import LIMIT_HEADER, answer
from nanochat.serve.http.api.schema import ChatRequest, parse_request, to_bias, to_sampling
from nanochat.serve.http.api.text_completions import add_text_routes
from nanochat.serve.http.api.tokenizer_routes import add_tokenizer_routes
from nanochat.serve.http.api.tool_calls import ToolCalling, to_grammar
from nanochat.serve.http.compatibility import IGNORED_HEADER, ClientFlags, IgnoredNames
from nanochat.serve.http.errors import ApiError, json_response, no_sessions
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.metrics import Measured, Metrics, add_metrics
from nanochat.serve.http.render_route import add_render_route
from nanochat.serve.http.security import Guard
from nanochat.serve.http.session_routes import add_session_routes, ask
from nanochat.serve.http.streaming import read_json

PAGE = Path(__file__).parent / "page"
SCRAPE_SECONDS = 5.0  # for the number of sessions in /metrics
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


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
    clients: ClientFlags = field(default_factory=ClientFlags)
    ignored: IgnoredNames = field(default_factory=IgnoredNames)
    metrics: Metrics = field(default_factory=Metrics)
    started: float = field(default_factory=time.time)

    def begin(self, request: ChatRequest, tools: ToolCalling, key: str = "") -> Generation:
        """Begins the replies to `request`, which may call `tools`, made with the key of that name. Raises `ApiError` if it cannot be done.

        A reply is at most as long as the server allows and the conversation leaves room for.
        """
        sampling, longest = to_sampling(request, self.defaults), self.limits.max_reply_tokens
        if request.session is None:
            prompt = chat_prompt(self.tokenizer, [*tools.introduction(), *request.messages])
            longest = longest_reply(self, len(prompt), "conversation")
        elif self.sessions is None:
            raise no_sessions()
        else:
            prompt = chat_prompt(self.tokenizer, new_messages(request.messages), first=False)
        sampling.max_tokens = min(sampling.max_tokens, longest)
        own_code = [self.tokenizer.special_tokens["<|python_end|>"]] if tools.own_code else []
        asked = ReplyRequest(
            prompt,
            sampling,
            (*stop_tokens(self.tokenizer), *own_code),
            request.n or 1,
            session=request.session,
            deadline=time.monotonic() + self.limits.max_seconds,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            tools=not tools.own_code,
            bias=to_bias(request, self.tokenizer.vocab_size),
            grammar=to_grammar(request, tools, self.tokenizer),
        )
        return Generation(self, [asked], request.stops, key=key)


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
        asked = parse_request(body, server.limits, server.model_name, server.clients)
        tools = ToolCalling(asked)
        generation = server.begin(asked, tools, request.scope["key"])
        return await answer(request, server, asked, generation, ChatCompletion(server, asked, tools))

    add_text_routes(app, server)
    add_tokenizer_routes(app, server)
    add_ollama_routes(app, server)

    async def count_sessions() -> int:
        return len((await ask(server.backend, SCRAPE_SECONDS, "list"))["sessions"])

    server.metrics.watch(server.backend.counts)
    add_metrics(app, server.metrics, None if server.sessions is None else count_sessions)
    add_session_routes(app, server.backend, server.limits, server.sessions is not None)
    add_render_route(app, server.limits)

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_model(server, name) for name in (server.model_name, *server.clients.names)]})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        if not server.clients.means(name, server.model_name):
            raise ApiError(404, "this model does not exist; GET /v1/models lists the models", "model", "model_not_found")
        return json_response(_model(server, name))

    @app.get("/health")
    async def health() -> Response:
        ready, workers = server.backend.readiness()
        status = "ok" if ready == workers else "degraded" if ready else "stopped"
        return json_response({"status": status} | ({"ready": ready, "workers": workers} if workers > 1 else {}), 200 if ready else 503)

    @app.get("/stats")
    async def stats() -> Response:
        counts = {name: round(value, 2) for name, value in vars(server.backend.counts()).items()}
        return json_response({"model": server.model_name, "uptime_seconds": round(time.time() - server.started, 1), **counts})

    # Around everything: FastAPI's own answers get the same headers.
    guard = Guard(Measured(app, server.metrics), server.keys, server.clients.origins)
    if not server.clients.origins:
        return guard
    allowed = {"allow_origins": server.clients.origins, "allow_methods": ["*"], "allow_headers": ["*"]}
    return CORSMiddleware(guard, **allowed, expose_headers=[IGNORED_HEADER, LIMIT_HEADER, "retry-after"])


def _model(server: ChatServer, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(server.started),
        "owned_by": "megacontext",
        "context_tokens": server.context_tokens,
        "max_reply_tokens": min(server.limits.max_reply_tokens, server.context_tokens),
        "defaults": {name: getattr(server.defaults, name) for name in ("temperature", "top_k", "top_p", "max_tokens")},
        "sessions": server.sessions and {**server.sessions, "max_document_bytes": server.limits.max_document_bytes},
    }


def _add_page(app: FastAPI) -> None:
    for path in sorted(PAGE.iterdir()):
        content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

        async def file(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, headers={"cache-control": "no-cache"}, media_type=media_type)

        app.get("/" if path.name == "index.html" else f"/page/{path.name}", include_in_schema=False)(file)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return ollama_error(error) if request.url.path.startswith("/api/") else error.response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = {404: "not found", 405: "method not allowed"}.get(error.status_code, error.detail)
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        return ApiError(500, "internal server error; the server's log has the details").response()
