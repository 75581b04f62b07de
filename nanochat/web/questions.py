"""What is asked of the sessions: from asyncio to the thread or process that has them, and the answers back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from nanochat.backend import Backend, Stopped
from nanochat.sessions import Answer
from nanochat.web.errors import ApiError, session_refusal


class Inquiry:
    """An operation of `nanochat.sessions.Sessions`. Whatever happens, `close` must be called: it ends what is still going on."""

    def __init__(self, backend: Backend, operation: str, **arguments: Any) -> None:
        self._backend, self._done = backend, False
        self._coming: asyncio.Queue[Answer] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(answer: Answer) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
                loop.call_soon_threadsafe(self._coming.put_nowait, answer)

        try:
            self._question = backend.ask(operation, arguments, deliver)
        except Stopped:
            raise ApiError(503, "the model has stopped; the server must be started again", code="model_stopped") from None

    async def next(self) -> Answer | None:
        """The next answer, None behind the last. Raises `ApiError` where the operation is refused."""
        if self._done:
            return None
        answer = await self._coming.get()
        self._done = "error" in answer or bool(answer.get("done"))
        if "error" in answer:
            raise session_refusal(answer)
        answer = {key: value for key, value in answer.items() if key != "done"}
        return answer or None

    def close(self) -> None:
        """Ends an operation that has not come to its end; there are no more answers."""
        if not self._done:
            self._backend.drop(self._question)
            self._done = True


async def ask(backend: Backend, seconds: float, operation: str, **arguments: Any) -> Answer:
    """The answer of an operation that takes a moment. Raises `ApiError` where it is refused, or does not come within `seconds`."""
    inquiry = Inquiry(backend, operation, **arguments)
    try:
        async with asyncio.timeout(seconds):
            return await inquiry.next() or {}
    except TimeoutError:
        raise ApiError(429, "the server is busy; try again", None, "server_busy", {"retry-after": "1"}) from None
    finally:
        inquiry.close()
