"""Times of the refocuses of a session, for whoever watches its server."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mc.layout.tiling import Edit
from mc.session.hooks import ObservedSession, SessionHooks


class RefocusTimes(SessionHooks):
    """Hooks around those that a session has; they note how long each refocus takes."""

    def __init__(self, inner: SessionHooks) -> None:
        self.inner = inner
        self._begun = 0.0
        self._milliseconds: list[float] = []

    def take(self) -> list[float]:
        """The times since the last call, in ms."""
        taken, self._milliseconds = self._milliseconds, []
        return taken

    def appended(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        self.inner.appended(session)

    def refocusing(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        self._begun = time.perf_counter()
        self.inner.refocusing(session)

    def refocused(self, session: ObservedSession, edits: Sequence[Edit]) -> None:
        """See `SessionHooks`."""
        self._milliseconds.append((time.perf_counter() - self._begun) * 1e3)
        self.inner.refocused(session, edits)

    def turn_begins(self, session: ObservedSession) -> None:
        """See `SessionHooks`."""
        self.inner.turn_begins(session)

    def turn_ends(self, session: ObservedSession, reply_tokens: int) -> None:
        """See `SessionHooks`."""
        self.inner.turn_ends(session, reply_tokens)
