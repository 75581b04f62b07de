"""Request bodies, server-sent events and answers of other threads, for clients that may be slow or disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """`value` as a server-sent event."""
    return f"data: {json.dumps(value)}\n\n".encode()


def from_threads() -> tuple[asyncio.Queue[T], Callable[[T], None]]:
    """A queue of the running event loop, and the function with which other threads put into it."""
    queue: asyncio.Queue[T] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(item: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending, nobody reads any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    return queue, put


async def read_json(request: Request, limits: WebLimits) -> bytes:
    """The body of a request. Raises `ApiError` if it is not JSON, too large, or too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with the header Content-Type: application/json")
    return await read_body(request, limits)


async def read_body(request: Request, limits: WebLimits) -> bytes:
    """The body of a request. Raises `ApiError` if it is too large or too slow."""
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(limits.max_send_seconds):
            async for part in body(request, limits.max_body_bytes):
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.max_send_seconds:g} s") from None
    return b"".join(parts)


async def body(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    """The parts of a body. Raises `ApiError` if it is larger than `most_bytes`, or if the client disconnects."""
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most_bytes:
                raise ApiError(413, f"the body is larger than {most_bytes} bytes")
            yield part
    except ClientDisconnect:
        raise ApiError(400, "the connection was closed during the request") from None


class EventStream(StreamingResponse):
    """Events for at most `seconds`. `close` is called at the end, also if the client disconnects or does not read."""

    def __init__(
        self, events: AsyncIterator[bytes], close: Callable[[], None], seconds: float, media_type: str = "text/event-stream"
    ) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type=media_type)
        self._close, self._seconds = close, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; see ASGI."""
        try:
            with contextlib.suppress(TimeoutError):  # the client does not read: the server closes the connection
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
        finally:
            self._close()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects. Raises `ApiError` then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(400, "the connection was closed before the reply")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
