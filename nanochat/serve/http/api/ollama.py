"""Ollama's API, for its clients: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show` and `/api/version`.

Bodies need no content type, streams are lines of JSON and the default, an error is a text, and the settings of sampling are in
`options`. A `/api/generate` is a chat of one message, or with `raw` a text to be continued.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from fastapi import FastAPI, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest
from nanochat.serve.http.api.generation import Delta, Generation, Serving, Usage, longest_reply
from nanochat.serve.http.api.replies import answer
from nanochat.serve.http.api.schema import ChatRequest, Strict, check_characters, parse_body, parse_request, to_sampling
from nanochat.serve.http.api.tool_calls import ToolCalling
from nanochat.serve.http.errors import ApiError, json_response
from nanochat.serve.http.streaming import read_body

VERSION = "0.5.0"  # of Ollama, whose API this is
# Ollama's name of an option → OpenAI's.
OPTIONS = {
    **{"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed", "stop": "stop"},
    **{"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"},
    **{"presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty"},
}


class OllamaRequest(Strict):
    """The body of a request for a reply, as far as both kinds are alike."""

    model_config = ConfigDict(extra="ignore")

    model: str
    stream: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    format: Literal["", "json"] | dict[str, Any] | None = None


class OllamaChat(OllamaRequest):
    """The body of `/api/chat`."""

    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None


class OllamaGenerate(OllamaRequest):
    """The body of `/api/generate`."""

    prompt: str = ""
    system: str = ""
    raw: bool = False


class ShowRequest(Strict):
    """The body of `/api/show`."""

    model_config = ConfigDict(extra="ignore")

    model: str


class ChatServing(Serving, Protocol):
    """A server that begins chats."""

    def begin(self, request: ChatRequest, tools: ToolCalling, key: str = "") -> Generation:
        """See `nanochat.serve.http.app.ChatServer`."""


def add_ollama_routes(app: FastAPI, server: ChatServing) -> None:
    """Adds the routes below `/api`."""

    @app.post("/api/chat")
    async def chat(request: Request) -> Response:
        asked = parse_body(OllamaChat, await read_body(request, server.limits))
        if not asked.messages:  # how clients load a model
            return json_response(_line(server, _said("chat", ""), done=True))
        chat, tools = _chat(server, asked, [_message(message) for message in asked.messages], asked.tools)
        return await answer(request, server, chat, server.begin(chat, tools), OllamaReply(server, "chat", tools))

    @app.post("/api/generate")
    async def generate(request: Request) -> Response:
        asked = parse_body(OllamaGenerate, await read_body(request, server.limits))
        if not asked.prompt:
            return json_response(_line(server, _said("generate", ""), done=True))
        system = [{"role": "system", "content": asked.system}] if asked.system else []
        chat, tools = _chat(server, asked, [*system, {"role": "user", "content": asked.prompt}], None)
        generation = _continuation(server, asked, chat) if asked.raw else server.begin(chat, tools)
        return await answer(request, server, chat, generation, OllamaReply(server, "generate", tools))

    @app.get("/api/tags")
    async def tags() -> Response:
        return json_response({"models": [_described(server, name) for name in (server.model_name, *server.clients.names)]})

    @app.post("/api/show")
    async def show(request: Request) -> Response:
        asked = parse_body(ShowRequest, await read_body(request, server.limits))
        if not server.clients.means(_plain(asked.model), server.model_name):
            raise ApiError(404, "this model does not exist; GET /api/tags lists the models", "model", "model_not_found")
        described = _described(server, server.model_name)
        information = {"general.architecture": "megacontext", "megacontext.context_length": server.context_tokens}
        return json_response({"details": described["details"], "model_info": information, "capabilities": ["completion", "tools"]})

    @app.get("/api/version")
    async def version() -> Response:
        return json_response({"version": VERSION})


def _plain(model: str) -> str:
    return model.removesuffix(":latest")


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message as OpenAI has it: arguments of calls are objects here, and text there."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message

    def call(each: Any) -> Any:
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
            return each
        return {"type": "function", "function": {**function, "arguments": json.dumps(function["arguments"])}}

    return {**message, "tool_calls": [call(each) for each in calls]}


def _chat(
    server: Serving, asked: OllamaRequest, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> tuple[ChatRequest, ToolCalling]:
    """The request as OpenAI has it."""
    settings = {OPTIONS[name]: value for name, value in asked.options.items() if name in OPTIONS and value is not None}
    settings |= {f"options.{name}": value for name, value in asked.options.items() if name not in OPTIONS}  # unknown, as others are
    if settings.get("max_tokens", 1) in (-1, -2):  # as many as there is room for
        settings["max_tokens"] = server.limits.max_reply_tokens
    if isinstance(asked.format, dict):
        settings["response_format"] = {"type": "json_schema", "json_schema": {"schema": asked.format}}
    elif asked.format == "json":
        settings["response_format"] = {"type": "json_object"}
    body = {"model": _plain(asked.model), "messages": messages, "tools": tools, "stream": asked.stream, **settings}
    chat = parse_request(json.dumps(body).encode(), server.limits, server.model_name, server.clients)
    return chat, ToolCalling(chat)


def _continuation(server: Serving, asked: OllamaGenerate, chat: ChatRequest) -> Generation:
    """The continuation of the prompt as it is."""
    check_characters("prompt", len(asked.prompt), server.limits)
    prompt, sampling = server.tokenizer.encode(asked.prompt, bos=True), to_sampling(chat, server.defaults)
    sampling.max_tokens = min(sampling.max_tokens, longest_reply(server, len(prompt), "prompt"))
    deadline = time.monotonic() + server.limits.max_seconds
    return Generation(server, [ReplyRequest(prompt, sampling, stop_tokens(server.tokenizer), deadline=deadline, tools=False)], chat.stops)


def ollama_error(error: ApiError) -> Response:
    """The answer to a request that is refused."""
    return json_response(_refused(error), error.status, error.headers)


class OllamaReply:
    """Lines of JSON that answer a request of `kind`, chat or generate; see `nanochat.serve.http.api.replies.Format`."""

    media_type = "application/x-ndjson"

    def __init__(self, server: Serving, kind: str, tools: ToolCalling) -> None:
        self._server, self._kind, self._tools = server, kind, tools
        self._began, self._reply = time.monotonic(), Delta(0)

    def whole(self, replies: list[Delta], usage: Usage) -> dict[str, Any]:
        """See `Format`."""
        (self._reply,) = replies
        return self._last(self._reply.said, usage)

    def opening(self, index: int) -> bytes:
        """See `Format`."""
        return b""

    def events(self, new: Delta) -> bytes:
        """See `Format`."""
        self._reply.add(new)
        return _encoded(_line(self._server, _said(self._kind, new.said))) if new.said else b""

    def failure(self, error: ApiError) -> bytes:
        """See `Format`."""
        return _encoded(_refused(error))

    def end(self, usage: Usage) -> bytes:
        """See `Format`."""
        return _encoded(self._last("", usage))

    def _last(self, text: str, usage: Usage) -> dict[str, Any]:
        """The last line: the calls that the reply makes, and its figures."""
        found = [call["function"] for call in self._tools.calls(self._reply.pieces, self._reply.finish)]
        calls = [{"function": {"name": call["name"], "arguments": json.loads(call["arguments"])}} for call in found]
        figures = {"total_duration": int((time.monotonic() - self._began) * 1e9), "load_duration": 0}
        figures |= {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens}
        reason = {"done_reason": self._reply.finish or "stop"}
        return _line(self._server, _said(self._kind, text, calls), done=True) | reason | figures


def _refused(error: ApiError) -> dict[str, Any]:
    return {"error": error.body()["error"]["message"]}


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _said(kind: str, text: str, calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    if kind == "generate":
        return {"response": text}
    return {"message": {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}}


def _line(server: Serving, said: dict[str, Any], done: bool = False) -> dict[str, Any]:
    return {"model": server.model_name, "created_at": datetime.now(UTC).isoformat(), **said, "done": done}


def _described(server: Serving, name: str) -> dict[str, Any]:
    details = {"format": "safetensors", "family": "megacontext", "families": ["megacontext"]}
    details |= {"parameter_size": "", "quantization_level": ""}
    return {"name": name, "model": name, "modified_at": datetime.now(UTC).isoformat(), "size": 0, "digest": "", "details": details}
