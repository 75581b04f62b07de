"""HTTP as uvicorn speaks it, but for clients that never finish to ask."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient(seconds: float) -> type[H11Protocol]:
    """A protocol that closes a connection where no head of a request has come within `seconds`, at first or after an answer.

    uvicorn waits for ever for a client that sends nothing, or a byte now and then.
    """

    class ImpatientProtocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._end_patience()

        def _expect_request(self) -> None:
            self._end_patience()
            if not self.transport.is_closing():
                self._patience = self.loop.call_later(seconds, self._give_up)

        def _end_patience(self) -> None:
            """A timer that is not cancelled keeps a connection that is gone in memory until its time has come."""
            if self._patience is not None:
                self._patience.cancel()

        def _give_up(self) -> None:
            # Otherwise a request is being answered, and the end of that sets the clock anew.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return ImpatientProtocol
