"""Request bodies: OpenAI's `/v1/chat/completions`, as far as these models support it, and new sessions.

The messages are those that training reads (`nanochat.data.messages`). Beyond OpenAI's: `top_k`, and an assistant's content may be
the parts of `nanochat.data.chat_template` (text, python, python_output), as the server returns them. With a `session` the server keeps
the history: the messages after the last of the assistant's are new; those before, which a client may send or leave out, are not read
again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, field_validator

from nanochat.data.messages import MessageError, to_turns
from nanochat.infer.sampling import LEAST_TEMPERATURE, Sampling
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_PARTS = 1024
MAX_NAME_CHARACTERS = 200  # of a session's name; the store of the sessions checks the rest

# Accepted and ignored: for the provider's own accounts, caches and tiers.
WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "reasoning_effort", "verbosity",
}  # fmt: skip
# Not supported, with the values that request nothing and are accepted.
ONLY: dict[str, Sequence[Any]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,), "top_logprobs": (0,),
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (),
}  # fmt: skip


class _Strict(BaseModel):
    # Strict: a number in quotes is not a number. Errors never repeat the request.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class ContentPart(_Strict):
    """A part of a message. Only assistants have other parts than text."""

    type: Literal["text", "python", "python_output"]
    text: str


class Message(_Strict):
    """One turn. Tool calls and outputs in it are of the past; `nanochat.data.messages` checks them. Other additions are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | list[ContentPart] | None, Field(union_mode="left_to_right")] = None
    tool_calls: list[Any] | None = Field(default=None, max_length=MAX_PARTS)
    function_call: dict[str, Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _content_is_text(cls, value: Any) -> Any:
        if not isinstance(value, str | list | None):
            raise ValueError("must be a string or a list of parts")
        if isinstance(value, list) and not 1 <= len(value) <= MAX_PARTS:
            raise ValueError(f"must have from 1 to {MAX_PARTS} parts")
        return value

    @property
    def characters(self) -> int:
        """Length of all that it says."""
        said = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return sum(map(len, said)) + len(json.dumps([self.tool_calls, self.function_call])) * bool(self.tool_calls or self.function_call)


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # none is ever sent


class ChatRequest(_Strict):
    """The body of a request for replies. None is the same as left out."""

    model_config = ConfigDict(extra="allow")

    messages: Annotated[list[Message], FailFast()]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[str | list[str], Field(union_mode="left_to_right")] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    session: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARACTERS)

    @field_validator("stop", mode="after")
    @classmethod
    def _stop_is_short(cls, value: str | list[str] | None) -> list[str]:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS or any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"must be at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters")
        return stops

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return list(self.stop or [])


class NewSession(_Strict):
    """The body of a request for a new session: empty, or a copy of `fork_of`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    fork_of: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARACTERS)


def parse_session(body: bytes) -> NewSession:
    """The request in `body`. Raises `ApiError` if it is invalid."""
    try:
        return NewSession.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(error) from None


def parse_request(body: bytes, limits: WebLimits, models: Sequence[str]) -> ChatRequest:
    """The request in `body`. Raises `ApiError` with a status from 400 to 499 if it is invalid."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(error) from None
    for name, value in (request.model_extra or {}).items():
        if name in WITHOUT_EFFECT or value is None:
            continue
        if name not in ONLY:
            raise ApiError(400, f"unknown parameter {_quoted(name)}", name, "unknown_parameter")
        if not any(type(value) in (type(allowed), float) and value == allowed for allowed in ONLY[name]):
            raise ApiError(400, f"{name} is not supported; leave it out", name, "unsupported_parameter")
    if not request.messages:
        raise ApiError(400, "messages must not be empty", "messages", "empty_array")
    if request.model is not None and request.model not in models:
        raise ApiError(
            404, f"the model {_quoted(request.model)} does not exist; GET /v1/models lists the models", "model", "model_not_found"
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(400, "give max_tokens or max_completion_tokens, not both", "max_tokens")
    if request.session is not None and (request.n or 1) != 1:
        raise ApiError(400, "n must be 1 with a session", "n", "unsupported_parameter")
    _check("n", request.n, limits.max_choices)
    _check("messages", len(request.messages), limits.max_messages)
    characters = sum(message.characters for message in request.messages)
    if characters > limits.max_characters:
        raise ApiError(
            400, f"the messages have {characters} characters; at most {limits.max_characters} are allowed", "messages", "string_too_long"
        )
    return request


def new_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages after the last of the assistant's and the outputs of its tools: those that a session does not hold yet."""
    said = [i for i, message in enumerate(messages) if message.role in ("assistant", "tool", "function")]
    return messages[said[-1] + 1 :] if said else messages


def to_conversation(messages: Sequence[Message]) -> dict[str, Any]:
    """The conversation that `nanochat.data.chat_template` renders, by `nanochat.data.messages`.

    Raises `ApiError` if the format does not allow it.
    """
    try:
        conversation = to_turns([message.model_dump() for message in messages])
    except MessageError as error:
        raise ApiError(400, str(error), f"messages.{error.index}.{error.field}") from None
    roles = [turn["role"] for turn in conversation["messages"] if turn["role"] != "system"]
    if not roles or roles[-1] != "user":
        raise ApiError(400, "the last message must be the user's", "messages")
    if roles[0] != "user":
        raise ApiError(400, "the first message after the system's must be the user's", "messages")
    return conversation


def to_sampling(request: ChatRequest, defaults: Sampling) -> Sampling:
    """Sampling of the request, completed by `defaults`. Without a seed, a random one."""

    def given(name: str) -> Any:
        value = getattr(request, name)
        return getattr(defaults, name) if value is None else value

    temperature, top_p = given("temperature"), given("top_p")
    if temperature < LEAST_TEMPERATURE or top_p == 0:
        temperature, top_p = 0.0, 1.0
    max_tokens = request.max_tokens or request.max_completion_tokens or defaults.max_tokens
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    return Sampling(temperature, given("top_k"), top_p, max_tokens, seed)


def _check(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ApiError(400, f"invalid {name}: at most {most} allowed", name, "limit_exceeded")


def _api_error(error: ValidationError) -> ApiError:
    """The first error, in one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    # Of `str | list` both are tried, the string first; its error does not help if a list was meant.
    first = errors[1] if errors[0]["loc"][-1:] == ("str",) and len(errors) > 1 else errors[0]
    names = [str(part) for part in first["loc"] if part != "str" and not str(part).startswith("list[")]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON ({message.removeprefix('Invalid JSON: ')})", None, "invalid_json")
    param = ".".join(names) or None
    return ApiError(400, f"{param}: {message}" if param else message, param, first["type"])


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:59] + "…")
