"""Requests in and answers out, for clients that may be slow or go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.limits import WebLimits

Result = TypeVar("Result")


async def read_json(request: Request, limits: WebLimits) -> bytes:
    """The body of a request. Raises `ApiError` where it is not JSON, too large, or too slow in coming."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with the header Content-Type: application/json")
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(limits.max_send_seconds):
            async for part in body(request, limits.max_body_bytes):
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.max_send_seconds:g} s") from None
    return b"".join(parts)


async def body(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    """The parts of a body. Raises `ApiError` where there are more than so many bytes of it, and where the client goes away."""
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most_bytes:
                raise ApiError(413, f"the body is larger than {most_bytes} bytes")
            yield part
    except ClientDisconnect:
        raise ApiError(400, "the connection was closed within the request") from None


class EventStream(StreamingResponse):
    """Server-sent events for at most `seconds`. `close` is called at the end, also where the client goes away or does not read."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None], seconds: float) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type="text/event-stream")
        self._close, self._seconds = close, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; see ASGI."""
        try:
            with contextlib.suppress(TimeoutError):  # it does not read: the server closes the connection
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
        finally:
            self._close()


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is given up when the client goes away."""

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
