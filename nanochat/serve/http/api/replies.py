"""Answers to requests for replies in an API's format: whole, or as a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from nanochat.serve.http.api.generation import Delta, Generation, Serving, Usage
from nanochat.serve.http.api.schema import GenerationRequest
from nanochat.serve.http.errors import ApiError, json_response
from nanochat.serve.http.streaming import DONE, EventStream, event, unless_gone

LIMIT_HEADER = "x-max-tokens"
READ_SECONDS = 60.0  # for a client to read its answer, after the last token


class Format(Protocol):
    """Format of the answer to one request. `replies` are in order, each with everything in one delta."""

    media_type: str  # of a stream

    def whole(self, replies: list[Delta], usage: Usage) -> dict[str, Any]:
        """The answer to a request that does not stream."""

    def opening(self, index: int) -> bytes:
        """The first event of a reply."""

    def events(self, new: Delta) -> bytes:
        """The events of a delta."""

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that fails."""

    def end(self, usage: Usage) -> bytes:
        """The last events of all replies."""


class OpenAIFormat:
    """Objects and server-sent events of OpenAI's formats, which share id, time and model."""

    media_type = "text/event-stream"

    def __init__(self, kind: str, chunk: str, server: Serving, asked: GenerationRequest) -> None:
        """`kind` begins the id; `chunk` is the `object` of an event."""
        name = server.model_name
        self._common = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": name, "system_fingerprint": name}
        self._chunk, self._usage_follows = chunk, asked.usage_follows

    def failure(self, error: ApiError) -> bytes:
        """See `Format`."""
        return event(error.body())

    def end(self, usage: Usage) -> bytes:
        """See `Format`. With the numbers of tokens, if the request wants them."""
        return (self._event([], usage.to_json()) if self._usage_follows else b"") + DONE

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        return event({**self._common, "object": self._chunk, "choices": choices, **({"usage": usage} if self._usage_follows else {})})


async def answer(request: Request, server: Serving, asked: GenerationRequest, generation: Generation, style: Format) -> Response:
    """The replies as `asked`: whole, or as they come."""
    headers = _headers(server, asked, generation)
    if asked.stream:
        return await _streamed(request, generation, style, server.limits.max_seconds, headers)
    return await _whole(request, generation, style, headers)


def _headers(server: Serving, asked: GenerationRequest, generation: Generation) -> dict[str, str]:
    """Headers that tell what the reply does not follow of the request: ignored parameters, and a length beyond what there is room for."""
    is_less = generation.max_tokens < (asked.longest or 0)
    return server.ignored.headers(asked.ignored) | ({LIMIT_HEADER: str(generation.max_tokens)} if is_less else {})


async def _whole(request: Request, generation: Generation, style: Format, headers: dict[str, str]) -> Response:
    """The replies, once all are complete."""
    replies = [Delta(index, finish="stop") for index in range(generation.replies)]

    async def collect() -> None:
        async for batch in generation.deltas():
            for delta in batch:
                replies[delta.index].add(delta)

    try:
        await unless_gone(request, collect())
    finally:
        generation.close()
    return json_response(style.whole(replies, generation.usage), headers=headers)


async def _streamed(request: Request, generation: Generation, style: Format, seconds: float, headers: dict[str, str]) -> EventStream:
    """The replies as they come, for at most `seconds`. An error before the first token is still an answer with a status of its own."""
    batches = generation.deltas()

    async def events() -> AsyncIterator[bytes]:
        batch = first
        try:
            yield b"".join(style.opening(index) for index in range(generation.replies))
            while batch is not None:
                if text := b"".join(map(style.events, batch)):
                    yield text
                batch = await anext(batches, None)
        except ApiError as error:
            yield style.failure(error)
            return
        yield style.end(generation.usage)

    try:
        first = await unless_gone(request, anext(batches))
    except BaseException:
        generation.close()
        raise
    stream = EventStream(events(), generation.close, seconds + READ_SECONDS, style.media_type)
    stream.headers.update(headers)
    return stream
