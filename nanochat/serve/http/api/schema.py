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
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, field_validator, model_validator

from nanochat.infer.sampling import LEAST_TEMPERATURE, Sampling
from nanochat.serve.http.compatibility import ClientFlags
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits

MAX_STOPS = 16  # OpenAI allows 4, but tools for evaluation send more
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1024
MAX_TOOLS = 128
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
    "functions": ([],), "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (), "prediction": (),
    "web_search_options": (),
}  # fmt: skip


class Strict(BaseModel):
    """A part of a body, checked strictly."""

    # Strict: a number in quotes is not a number. Errors never repeat the request.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class ContentPart(Strict):
    """A part of a message. Only assistants have other parts than text."""

    type: Literal["text", "python", "python_output"]
    text: str


class Message(Strict):
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
        calls = [self.tool_calls, self.function_call]
        return sum(map(len, said)) + (len(json.dumps(calls)) if any(calls) else 0)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # none is ever sent


class GenerationRequest(Strict):
    """The body of a request for replies, as far as all kinds are alike. None is the same as left out."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[str | list[str], Field(union_mode="left_to_right")] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=MAX_BIASES)

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

    @property
    def longest(self) -> int | None:
        """The longest reply that is wanted, in tokens."""
        return self.max_tokens

    @property
    def ignored(self) -> list[str]:
        """The names of parameters that are unknown."""
        return [name for name, value in (self.model_extra or {}).items() if not (name in WITHOUT_EFFECT or name in ONLY or value is None)]

    @property
    def usage_follows(self) -> bool:
        """True if a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Function(Strict):
    """A function of the client; `parameters` is the JSON schema of its arguments."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("parameters")
    @classmethod
    def _parameters_have_names(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and not isinstance(value.get("properties", {}), dict):
            raise ValueError("must be a JSON schema of an object")
        return value


class FunctionTool(Strict):
    """A tool of the client."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """The name of a function."""

    name: str


class FunctionChoice(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Strict):
    """The schema of a reply. It may have a name and be `strict`, which it always is."""

    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """The format of a reply: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with the type json_schema, and only then")
        return self


class ChatRequest(GenerationRequest):
    """The body of a request for replies to messages."""

    messages: Annotated[list[Message], FailFast()]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    session: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARACTERS)
    tools: list[FunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Annotated[Literal["none", "auto", "required"] | FunctionChoice, Field(union_mode="left_to_right")] | None = None
    response_format: ResponseFormat | None = None

    @property
    def longest(self) -> int | None:
        """See `GenerationRequest`."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


class NewSession(Strict):
    """The body of a request for a new session: empty, or a copy of `fork_of`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    fork_of: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARACTERS)


Body = TypeVar("Body", bound=Strict)
Asked = TypeVar("Asked", bound=GenerationRequest)


def parse_session(body: bytes) -> NewSession:
    """The request in `body`. Raises `ApiError` if it is invalid."""
    return parse_body(NewSession, body)


def parse_request(body: bytes, limits: WebLimits, model: str, clients: ClientFlags) -> ChatRequest:
    """The request in `body`. Raises `ApiError` with a status from 400 to 499 if it is invalid."""
    request = parse_generation(ChatRequest, body, limits, model, clients)
    if not request.messages:
        raise ApiError(400, "messages must not be empty", "messages", "empty_array")
    if request.max_tokens == 0:
        raise ApiError(400, "max_tokens: must be at least 1", "max_tokens")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(400, "give max_tokens or max_completion_tokens, not both", "max_tokens")
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    if request.session is not None and (request.n or 1) != 1:
        raise ApiError(400, "n must be 1 with a session", "n", "unsupported_parameter")
    check_most("messages", len(request.messages), limits.max_messages)
    check_characters("messages", sum(message.characters for message in request.messages), limits)
    return request


def parse_body(kind: type[Body], body: bytes) -> Body:
    """The `body` as a `kind`. Raises `ApiError` if it is invalid."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(error) from None


def parse_generation(kind: type[Asked], body: bytes, limits: WebLimits, model: str, clients: ClientFlags) -> Asked:
    """The request in `body`, checked as far as requests of all kinds are alike. See `parse_request`."""
    request = parse_body(kind, body)
    for name, value in (request.model_extra or {}).items():
        allowed = [None, *ONLY.get(name, (value,))]
        if not any(type(value) in (type(each), float) and value == each for each in allowed):
            raise ApiError(400, f"{name} is not supported; leave it out", name, "unsupported_parameter")
    if request.ignored and not clients.lenient:
        raise ApiError(400, f"unknown parameter {_quoted(request.ignored[0])}", request.ignored[0], "unknown_parameter")
    if not clients.means(request.model, model):
        raise ApiError(
            404, f"the model {_quoted(request.model)} does not exist; GET /v1/models lists the models", "model", "model_not_found"
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    check_most("n", request.n, limits.max_choices)
    return request


def to_sampling(request: GenerationRequest, defaults: Sampling) -> Sampling:
    """Sampling of the request, completed by `defaults`. Without a seed, a random one."""

    def given(name: str) -> Any:
        value = getattr(request, name)
        return getattr(defaults, name) if value is None else value

    temperature, top_p = given("temperature"), given("top_p")
    if temperature < LEAST_TEMPERATURE or top_p == 0:
        temperature, top_p = 0.0, 1.0
    max_tokens = request.longest or defaults.max_tokens
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    rules = {name: given(name) for name in ("min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")}
    return Sampling(temperature, given("top_k"), top_p, max_tokens, seed, **rules)


def to_bias(request: GenerationRequest, vocabulary: int) -> dict[str, float]:
    """The biases of the request. Raises `ApiError` for what is no token."""
    for token in request.logit_bias or {}:
        if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < vocabulary):
            raise ApiError(400, f"the keys of logit_bias must be tokens, 0 to {vocabulary - 1}", "logit_bias")
    return dict(request.logit_bias or {})


def check_most(name: str, value: int | None, most: int) -> None:
    """Raises `ApiError` if parameter `name` is more than `most`."""
    if value is not None and value > most:
        raise ApiError(400, f"invalid {name}: at most {most} allowed", name, "limit_exceeded")


def check_characters(name: str, characters: int, limits: WebLimits) -> None:
    """Raises `ApiError` if parameter `name` has too many."""
    if characters > limits.max_characters:
        most = limits.max_characters
        raise ApiError(400, f"the {name} has {characters} characters; at most {most} are allowed", name, "string_too_long")


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
