"""Observer hooks of a session (telemetry uses them). The session itself takes no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mc.layout.tiling import Edit, Tiling
from mc.session.budget import Budget, FocusFigures
from mc.session.tree import MegaContextTree


class ObservedContext(Protocol):
    """View of a Working Context."""

    tiling: Tiling

    def __len__(self) -> int:
        """Number of entries."""


class ObservedSession(Protocol):
    """View of a `Session` that hooks get."""

    tree: MegaContextTree
    context: ObservedContext
    budget: Budget
    figures: FocusFigures

    @property
    def length(self) -> int:
        """Tokens of the history."""


class SessionHooks:
    """No-op hooks; subclass and override what you need. Hooks must not modify the session."""

    def appended(self, session: ObservedSession) -> None:
        """After the tree has grown."""

    def refocusing(self, session: ObservedSession) -> None:
        """Before a refocus."""

    def refocused(self, session: ObservedSession, edits: Sequence[Edit]) -> None:
        """After a refocus, with the edits it made, in order."""

    def turn_begins(self, session: ObservedSession) -> None:
        """Before a turn of a conversation or a document is added to the history."""

    def turn_ends(self, session: ObservedSession, reply_tokens: int) -> None:
        """After it was added; `reply_tokens` of a turn are the reply."""


def no_hooks(name: str) -> SessionHooks:
    """Hooks that do nothing, for a session of any name."""
    return SessionHooks()
