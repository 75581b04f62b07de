"""What a server asks of those who keep its sessions: histories, each with a name, that requests go on with.

All of it happens in the thread that decodes. Requests and answers are what JSON can say, since they may come from another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from nanochat.common import UserError
from nanochat.infer.memory_kv_cache import ExternalMemory
from nanochat.serve.admission import Counts

if TYPE_CHECKING:
    from nanochat.infer.sampling import Sampling

Answer = dict[str, Any]
Finish = Literal["stop", "length", "time", "error"]


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
    def memory(self) -> ExternalMemory:
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


class Update(NamedTuple):
    """News of one row of a request: a token, the end, or both.

    `finish` is `stop` where a stop token came (it is `token`), `length` after the last token allowed, `time` where the
    request's time was up, `error` where the model can go on for nobody, or `news` has another reason (`error_answer`). `forced`
    tokens are a tool's, not the model's. In a session `news` may have the `focus`, where it has moved.
    """

    row: int
    token: int | None
    forced: bool = False
    finish: Finish | None = None
    news: Answer | None = None


Deliver = Callable[[list[Update]], None]


DeliverAnswer = Callable[[Answer], None]


STOPPED: Answer = error_answer(SessionError("the model has stopped; the server must be started again", 503))


class Stopped(Exception):
    """The model has stopped: no request can be answered any more."""


@dataclass(eq=False)
class PendingReply:
    """A request that was taken. `unfinished` holds the rows that are not at their end."""

    prompt: Sequence[int]
    sampling: Sampling
    stop: Collection[int]
    deliver: Deliver
    unfinished: set[int]
    session: str | None = None
    began: float = field(default_factory=time.monotonic)
    ids: dict[int, int] = field(default_factory=dict)  # row → the batcher's number for it
    turn: SessionTurn | None = None


@dataclass(eq=False)
class SessionRequest:
    """An operation of `nanochat.serve.backend.Sessions` that was asked for. The last answer has the key `done` or `error`."""

    operation: str
    arguments: Mapping[str, Any]
    deliver: DeliverAnswer


class Backend(Protocol):
    """Takes requests and answers with tokens: `Serving` in this process, `nanochat.serve.workers.Workers` in others."""

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop: Collection[int],
        rows: int,
        deliver: Deliver,
        session: str | None = None,
    ) -> PendingReply:
        """Queues `rows` continuations of `prompt`, row i with random stream i. `deliver` is called in another thread.

        With a `session` there is one row, and the prompt goes on with what the session holds. Raises `Busy` where no more rows
        may wait, and `Stopped`.
        """
        ...

    def ask(self, operation: str, arguments: Mapping[str, Any], deliver: DeliverAnswer) -> SessionRequest:
        """Asks for an operation of sessions; `deliver` is called in another thread. `ingest` has several answers. Raises `Stopped`."""
        ...

    def drop(self, question: SessionRequest) -> None:
        """Ends an `ingest` early; what has been read stays, and there are no more answers."""
        ...

    def cancel(self, ticket: PendingReply, row: int | None = None) -> None:
        """Ends a row (None: all of them) without a word; what has ended already stays so."""
        ...

    def counts(self) -> Counts:
        """The figures of now."""
        ...

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        ...

    def close(self) -> None:
        """Ends everything; requests that still run are told `error`."""
        ...
