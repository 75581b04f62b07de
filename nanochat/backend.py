"""What a chat server asks of whoever decodes: requests and questions in, news of them out. In this process or in others."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from nanochat.serving_meter import Counts
from nanochat.sessions import Answer, SessionError, error_answer

if TYPE_CHECKING:
    from nanochat.infer.sampling import Sampling
    from nanochat.sessions import SessionTurn

Finish = Literal["stop", "length", "time", "error"]


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
class Ticket:
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
class Question:
    """An operation of `nanochat.sessions.Sessions` that was asked for. The last answer has the key `done` or `error`."""

    operation: str
    arguments: Mapping[str, Any]
    deliver: DeliverAnswer


class Backend(Protocol):
    """Takes requests and answers with tokens: `Serving` in this process, `nanochat.web.workers.Workers` in others."""

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop: Collection[int],
        rows: int,
        deliver: Deliver,
        session: str | None = None,
    ) -> Ticket:
        """Queues `rows` continuations of `prompt`, row i with random stream i. `deliver` is called in another thread.

        With a `session` there is one row, and the prompt goes on with what the session holds. Raises `Busy` where no more rows
        may wait, and `Stopped`.
        """
        ...

    def ask(self, operation: str, arguments: Mapping[str, Any], deliver: DeliverAnswer) -> Question:
        """Asks for an operation of sessions; `deliver` is called in another thread. `ingest` has several answers. Raises `Stopped`."""
        ...

    def drop(self, question: Question) -> None:
        """Ends an `ingest` early; what has been read stays, and there are no more answers."""
        ...

    def cancel(self, ticket: Ticket, row: int | None = None) -> None:
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
