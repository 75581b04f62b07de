"""Interfaces of a chat server: `Backend`, which the HTTP layer asks for replies, and `Sessions`, which the backend keeps.

A backend decodes in this process (`DecodeThread`) or in others (`Workers`). Sessions are named histories that requests continue;
everything that happens to them happens in the decoding thread. Requests and answers are JSON, since they may come from another
process.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import ExternalMemory
from nanochat.infer.request import Finish, ReplyRequest, TokenEvent
from nanochat.serve.admission import Counts, Outcome

Answer = dict[str, Any]
Deliver = Callable[[list[TokenEvent]], None]
DeliverAnswer = Callable[[Answer], None]


class Stopped(Exception):
    """The model has stopped: no request can be answered any more, or, if it is `restarting`, not now."""

    def __init__(self, restarting: bool = False) -> None:
        super().__init__("the model is being started again; try again soon" if restarting else "the model has stopped; restart the server")


class SessionError(UserError):
    """A request to a session that is refused; `status` is HTTP's number for the reason."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def error_answer(error: SessionError) -> Answer:
    """`error` as an answer."""
    return {"error": {"message": str(error), "status": error.status}}


STOPPED = error_answer(SessionError(str(Stopped()), 503))


class Readiness(NamedTuple):
    """Processes with a model: those that answer requests, and all that should."""

    ready: int
    workers: int


@dataclass(frozen=True, eq=False)
class SessionRequest:
    """An operation of `Sessions`. Its last answer has the key `done` or `error`."""

    operation: str
    arguments: Mapping[str, Any]
    id: int = field(default_factory=itertools.count().__next__)  # unique in the process that makes the request


class SessionTurn(Protocol):
    """One turn of the user and the reply to it, which is being written into a session. The session is busy until `end`."""

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens that the model reads next, after what the session holds."""

    @property
    def memory(self) -> ExternalMemory:
        """The session, as the memory behind a row of a cache."""

    def feed(self, token: int) -> None:
        """Adds a token of the reply, the stop token included."""

    def news(self) -> Answer | None:
        """The focus, if it has moved since the last call, with the times `refocus_ms` that this took."""

    @property
    def trouble(self) -> str | None:
        """Why the session cannot continue, in one line; None if it can."""

    def end(self) -> None:
        """Leaves the session at the end of a whole turn, even if the reply was cut off, and saves it.

        Raises `SessionError` if it could not be saved; the session then holds what its files have.
        """


class Sessions(Protocol):
    """The sessions of a server. Not thread-safe."""

    def turn(self, name: str, tokens: Sequence[int]) -> SessionTurn:
        """Begins a turn; `tokens` ask for a reply. Raises `SessionError`."""

    def answer(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Runs a short operation. Raises `SessionError`.

        `list`, and of a `session`: `create`, `fork` (as `new`), `delete`, `delete_empty` (only if it holds nothing), `check` (whether
        it can be written to now), `focus`, `messages`, `text` (of the tokens from `start` to `end`).
        """

    def ingest(self, arguments: Mapping[str, Any], seconds: Callable[[], float]) -> Iterator[Answer]:
        """Reads a document into a session, in pieces of at most `seconds()` each. Closing it early leaves whole turns.

        Raises `SessionError`; a session that was empty before is then deleted.

        Answers are `stage`, `check` or `add`, with what is `read` of the `total`, in bytes and in tokens, and at the end the
        `tokens` that were added, and the `focus`.
        """

    def tidy(self) -> float | None:
        """Closes idle sessions. Returns the seconds until more may have to be closed, or None."""

    def close(self) -> None:
        """Saves and closes all."""


class Backend(Protocol):
    """Answers requests with token events: `DecodeThread` in this process, `nanochat.serve.workers.Workers` in others."""

    def submit(self, request: ReplyRequest, deliver: Deliver) -> None:
        """Queues a request; `deliver` is called in another thread. Raises `Busy` if no more rows may wait, and `Stopped`."""

    def cancel(self, id: int) -> None:
        """Ends the reply request `id`, whose client has gone, without another event. Unknown or finished ids are ignored."""

    def finish(self, id: int, row: int) -> None:
        """Ends a row of the reply request `id` whose text is complete; its last event follows. Ignored as in `cancel`."""

    def ask(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """Queues an operation of sessions; `deliver` is called in another thread. `ingest` has several answers. Raises `Stopped`."""

    def drop(self, id: int) -> None:
        """Ends the `ingest` with session request `id` early; what has been read stays, and there are no more answers."""

    def counts(self) -> Counts:
        """The current counts."""

    def readiness(self) -> Readiness:
        """How many models answer requests now."""

    @property
    def alive(self) -> bool:
        """True while requests can be answered."""

    def close(self) -> None:
        """Ends everything; requests that still run end with `error`."""


@dataclass(eq=False)
class PendingReply:
    """An admitted request in a backend. `unfinished` holds the rows that have not ended."""

    request: ReplyRequest
    deliver: Deliver
    turn: SessionTurn | None = None
    began: float = field(default_factory=time.monotonic)
    unfinished: set[int] = field(init=False)
    outcome: Outcome = "finished"

    def __post_init__(self) -> None:
        self.unfinished = set(range(self.request.rows))

    def events(self, finish: Finish | None, news: Answer | None = None) -> list[TokenEvent]:
        """An event without a token for each unfinished row."""
        return [TokenEvent(self.request.id, row, None, finish=finish, news=news) for row in sorted(self.unfinished)]
