"""The seam through which others see a session at work. A session itself knows of no clock and of nobody who looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mc.layout.tiling import Edit

if TYPE_CHECKING:
    from mc.session.session import MCSession


class SessionHooks:
    """Sees nothing. Who wants to see overrides what is of interest; the session is not to be changed meanwhile."""

    def appended(self, session: MCSession) -> None:
        """The tree has grown."""

    def refocusing(self, session: MCSession) -> None:
        """A refocus begins."""

    def refocused(self, session: MCSession, edits: Sequence[Edit]) -> None:
        """It has ended, with these edits, in order."""

    def turn_begins(self, session: MCSession) -> None:
        """Somebody will now add to the history: a turn of a conversation, or a document."""

    def turn_ends(self, session: MCSession, reply_tokens: int) -> None:
        """That has been added; of a turn, so many tokens are the reply."""


def unwatched(name: str) -> SessionHooks:
    """The watcher of a session, whatever its name, that nobody looks at."""
    return SessionHooks()
