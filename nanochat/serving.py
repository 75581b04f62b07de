"""Many requests, one model: the thread that owns a `Batcher`, and the queue before it.

Requests come in from any thread, their tokens go back as they are decoded. Whoever waited longest is served first; a
request that is cancelled has left the batch before the next token is decoded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

from nanochat.serving_meter import Counts, Meter

if TYPE_CHECKING:
    from nanochat.batching import Batcher
    from nanochat.sampling import Sampling

Finish = Literal["stop", "length", "time", "error"]


class Update(NamedTuple):
    """News of one row of a request: a token, the end, or both.

    `finish` is `stop` where a stop token came (it is `token`), `length` after the last token allowed, `time` where the
    request's time was up, `error` where the model can go on for nobody. `forced` tokens are a tool's, not the model's.
    """

    row: int
    token: int | None
    forced: bool = False
    finish: Finish | None = None


Deliver = Callable[[list[Update]], None]


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
    began: float = field(default_factory=time.monotonic)
    ids: dict[int, int] = field(default_factory=dict)  # row → the batcher's number for it


class Backend(Protocol):
    """Takes requests and answers with tokens: `Serving` in this process, `nanochat.web.workers.Workers` in others."""

    def submit(self, prompt: Sequence[int], sampling: Sampling, stop: Collection[int], rows: int, deliver: Deliver) -> Ticket:
        """Queues `rows` continuations of `prompt`, row i with random stream i. `deliver` is called in another thread.

        Raises `Busy` where no more rows may wait, and `Stopped`.
        """
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


class Serving:
    """The thread that owns `batcher`, which decodes `max_rows` rows at a time; `max_queue` more may wait.

    A request that takes longer than `max_seconds`, waiting included, is ended. Where decoding fails the thread ends with
    that error (as the process's threads report it), `alive` is False from then on and `failed` is called.
    """

    def __init__(
        self, batcher: Batcher, max_rows: int, max_queue: int, max_seconds: float, failed: Callable[[], None] = lambda: None
    ) -> None:
        self._batcher, self._max_seconds, self._failed = batcher, max_seconds, failed
        self._meter = Meter(max_rows, max_queue)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._gate = threading.Lock()  # a request is taken before the thread ends, or not at all
        self._alive = True
        self._closing = False
        self._owners: dict[int, tuple[Ticket, int]] = {}  # of the thread: the batcher's number → request and its row
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """See `Backend`."""
        return self._alive

    def submit(self, prompt: Sequence[int], sampling: Sampling, stop: Collection[int], rows: int, deliver: Deliver) -> Ticket:
        """See `Backend`. A prompt that the batcher refuses ends with `error`."""
        ticket = Ticket(prompt, sampling, stop, deliver, set(range(rows)))
        with self._gate:
            if not self._alive:
                raise Stopped
            self._meter.take(rows, len(prompt))
            self._commands.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket, row: int | None = None) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._cancel(ticket, row))

    def counts(self) -> Counts:
        """See `Backend`."""
        return self._meter.counts()

    def close(self) -> None:
        """See `Backend`."""

        def end() -> None:
            self._closing = True

        self._commands.put(end)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands()
                if not self._closing and not self._batcher.idle:
                    self._step()
        finally:
            with self._gate:
                self._alive = False
            for ticket in dict.fromkeys(ticket for ticket, _ in self._owners.values()):
                self._refuse(ticket)
            while not self._commands.empty():
                self._commands.get()()
            self._batcher.close()
            if not self._closing:
                self._failed()

    def _take_commands(self) -> None:
        """Does what other threads have asked for; waits for them where there is nothing to decode."""
        wait = self._batcher.idle
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            command()
            wait = False

    def _add(self, ticket: Ticket) -> None:
        if not self._alive:
            self._refuse(ticket)
            return
        try:
            for row in sorted(ticket.unfinished):
                number = self._batcher.add(ticket.prompt, ticket.sampling, ticket.stop, stream=row)
                ticket.ids[row] = number
                self._owners[number] = ticket, row
        except ValueError:  # the batcher's word for a prompt that cannot be continued: this request's trouble alone
            self._refuse(ticket)

    def _refuse(self, ticket: Ticket) -> None:
        """Ends the request with an error."""
        rows = sorted(ticket.unfinished)
        for row in rows:
            self._end(ticket, row)
        ticket.deliver([Update(row, None, finish="error") for row in rows])

    def _cancel(self, ticket: Ticket, row: int | None) -> None:
        for each in sorted(ticket.unfinished if row is None else ticket.unfinished & {row}):
            if self._alive:
                self._batcher.cancel(ticket.ids[each])
            self._end(ticket, each, cancelled=True)

    def _step(self) -> None:
        """One token for each row that is decoded."""
        news: dict[Ticket, list[Update]] = {}
        tokens = 0
        for event in self._batcher.step():
            if event.id in self._owners:
                ticket, row = self._owners[event.id]
                tokens += event.token is not None
                news.setdefault(ticket, []).append(Update(row, event.token, event.forced, event.finish))
                if event.finish is not None:
                    self._end(ticket, row)
        began_before = time.monotonic() - self._max_seconds
        for ticket in dict.fromkeys(ticket for ticket, _ in self._owners.values() if ticket.began < began_before):
            for row in sorted(ticket.unfinished):
                self._batcher.cancel(ticket.ids[row])
                self._end(ticket, row)
                news.setdefault(ticket, []).append(Update(row, None, finish="time"))
        self._meter.decoded(tokens)
        for ticket, updates in news.items():
            ticket.deliver(updates)

    def _end(self, ticket: Ticket, row: int, cancelled: bool = False) -> None:
        ticket.unfinished.remove(row)
        if row in ticket.ids:
            self._owners.pop(ticket.ids[row])
        self._meter.end(time.monotonic() - ticket.began, cancelled)
