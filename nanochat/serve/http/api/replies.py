"""Answers to requests for replies in an API's format: whole, or as server-sent events."""

from __future__ import annotations

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
    """How an API writes the answer to one request. `replies` are in order, each with everything in one delta."""

    def whole(self, replies: list[Delta], usage: Usage) -> dict[str, Any]:
        """The answer to a request that does not stream."""

    def opening(self, index: int, usage_follows: bool) -> bytes:
        """The first event of a reply."""

    def events(self, new: Delta, usage_follows: bool) -> bytes:
        """The events of a delta."""

    def usage(self, usage: Usage) -> bytes:
        """The event with the numbers of tokens."""


async def answer(request: Request, server: Serving, asked: GenerationRequest, generation: Generation, style: Format) -> Response:
    """The replies as `asked`: whole, or as they come."""
    headers = reply_headers(server, asked, generation)
    if asked.stream:
        return await streamed_answer(request, generation, style, asked.usage_follows, server.limits.max_seconds, headers)
    return await whole_answer(request, generation, style, headers)


def reply_headers(server: Serving, asked: GenerationRequest, generation: Generation) -> dict[str, str]:
    """Headers that tell what the reply does not follow of the request: ignored parameters, and a length beyond what there is room for."""
    is_less = generation.max_tokens < (asked.longest or 0)
    return server.ignored.headers(asked.ignored) | ({LIMIT_HEADER: str(generation.max_tokens)} if is_less else {})


async def whole_answer(request: Request, generation: Generation, style: Format, headers: dict[str, str]) -> Response:
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


async def streamed_answer(
    request: Request, generation: Generation, style: Format, usage_follows: bool, seconds: float, headers: dict[str, str]
) -> EventStream:
    """The replies as they come, for at most `seconds`. An error before the first token is still an answer with a status of its own."""
    batches = generation.deltas()

    async def events() -> AsyncIterator[bytes]:
        batch = first
        try:
            yield b"".join(style.opening(index, usage_follows) for index in range(generation.replies))
            while batch is not None:
                if text := b"".join(style.events(delta, usage_follows) for delta in batch):
                    yield text
                batch = await anext(batches, None)
        except ApiError as error:
            yield event(error.body())
            return
        if usage_follows:
            yield style.usage(generation.usage)
        yield DONE

    try:
        first = await unless_gone(request, anext(batches))
    except BaseException:
        generation.close()
        raise
    stream = EventStream(events(), generation.close, seconds + READ_SECONDS)
    stream.headers.update(headers)
    return stream
