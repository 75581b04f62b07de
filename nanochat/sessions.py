"""What a server asks of those who keep its sessions: histories, each with a name, that requests go on with.

All of it happens in the thread that decodes. Requests and answers are what JSON can say, since they may come from another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import RowMemory

Answer = dict[str, Any]


class SessionError(UserError):
    """A request to a session that is refused; `status` is HTTP's number for the reason."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def error_answer(error: SessionError) -> Answer:
    """The answer that tells of `error`."""
    return {"error": {"message": str(error), "status": error.status}}


class SessionTurn(Protocol):
    """One turn of the user and the reply to it, which is being written into a session. The session is busy until `end`."""

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens that the model reads next, behind what the session holds."""
        ...

    @property
    def memory(self) -> RowMemory:
        """The session, as a row of a cache has it behind it."""
        ...

    def feed(self, token: int) -> None:
        """Takes note of a token of the reply, the stop token included."""
        ...

    def news(self) -> Answer | None:
        """Where the focus is, if it has moved since the last call."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why the session cannot go on, in one line; None where it can."""
        ...

    def end(self) -> None:
        """Leaves the session at the end of a whole turn, whatever came of the reply, and saves it."""
        ...


class Sessions(Protocol):
    """The sessions themselves. Not thread-safe."""

    def turn(self, name: str, tokens: Sequence[int]) -> SessionTurn:
        """Begins a turn; `tokens` ask for a reply. Raises `SessionError`."""
        ...

    def answer(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Does what takes a moment. Raises `SessionError`.

        `list`, and of a `session`: `create`, `fork` (as `new`), `delete`, `check` (whether one could write into it now), `focus`,
        `messages`, `text` (of the tokens from `start` to `end`).
        """
        ...

    def ingest(self, arguments: Mapping[str, Any]) -> Iterator[Answer]:
        """Reads a document into a session, piece by piece. Closing it early leaves whole turns. Raises `SessionError`.

        Answers are `stage`, `check` or `add`, with what is `read` of the `total`, in bytes and in tokens, and at the end the
        `tokens` that were added, and the `focus`.
        """
        ...

    def tidy(self) -> float | None:
        """Closes sessions that nobody has asked for lately. Returns after how many seconds there may be more to do, if at all."""
        ...

    def close(self) -> None:
        """Saves and closes all."""
        ...
