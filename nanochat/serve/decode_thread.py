"""Many requests, one model: the thread that owns a `Batcher` and the sessions, and the queue before it.

Requests come in from any thread, their tokens go back as they are decoded. Whoever waited longest is served first; a
request that is cancelled has left the batch before the next token is decoded. A document is read into a session piece by piece,
between two tokens of the others.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from nanochat.serve.admission import Counts, Meter
from nanochat.serve.backend import (
    STOPPED,
    Answer,
    Deliver,
    DeliverAnswer,
    Finish,
    PendingReply,
    SessionError,
    SessionRequest,
    Stopped,
    Update,
    error_answer,
)

if TYPE_CHECKING:
    from nanochat.infer.continuous_batching import Batcher
    from nanochat.infer.sampling import Sampling
    from nanochat.serve.backend import Sessions, SessionTurn


class DecodeThread:
    """The thread that owns `batcher`, which decodes `max_rows` rows at a time; `max_queue` more may wait.

    A request that takes longer than `max_seconds`, waiting included, is ended. Where decoding fails the thread ends with
    that error (as the process's threads report it), `alive` is False from then on and `failed` is called. `served` is called by
    the thread once, after the first request that was answered to its end.
    """

    def __init__(
        self,
        batcher: Batcher,
        max_rows: int,
        max_queue: int,
        max_seconds: float,
        failed: Callable[[], None] = lambda: None,
        sessions: Sessions | None = None,
        served: Callable[[], None] | None = None,
    ) -> None:
        self._batcher, self._max_seconds, self._failed, self._sessions = batcher, max_seconds, failed, sessions
        self._served = served
        self._meter = Meter(max_rows, max_queue)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._gate = threading.Lock()  # a request is taken before the thread ends, or not at all
        self._alive = True
        self._closing = False
        self._owners: dict[int, tuple[PendingReply, int]] = {}  # of the thread: the batcher's number → request and its row
        self._readings: deque[tuple[SessionRequest, Iterator[Answer]]] = deque()  # of the thread: documents that are being read
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

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop: Collection[int],
        rows: int,
        deliver: Deliver,
        session: str | None = None,
    ) -> PendingReply:
        """See `Backend`. A prompt that the batcher refuses ends with `error`."""
        if session is not None and (rows != 1 or self._sessions is None):
            raise ValueError(f"{rows} rows of session {session} were asked for; there is one, where there are sessions")
        ticket = PendingReply(prompt, sampling, stop, deliver, set(range(rows)), session)
        with self._gate:
            if not self._alive:
                raise Stopped
            self._meter.take(rows, len(prompt))
            self._commands.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: PendingReply, row: int | None = None) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._cancel(ticket, row))

    def ask(self, operation: str, arguments: Mapping[str, Any], deliver: DeliverAnswer) -> SessionRequest:
        """See `Backend`."""
        question = SessionRequest(operation, arguments, deliver)
        with self._gate:
            if not self._alive or self._sessions is None:
                raise Stopped
            self._commands.put(lambda: self._answer(question))
        return question

    def drop(self, question: SessionRequest) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._stop_reading(question))

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
                if not self._closing and self._readings:
                    self._read_on()
        finally:
            with self._gate:
                self._alive = False
            for ticket in dict.fromkeys(ticket for ticket, _ in self._owners.values()):
                self._refuse(ticket)
            for question, _ in list(self._readings):
                self._stop_reading(question)
                question.deliver(STOPPED)
            while not self._commands.empty():
                self._commands.get()()
            self._batcher.close()
            if self._sessions is not None and self._closing:
                self._sessions.close()
            if not self._closing:
                self._failed()

    def _take_commands(self) -> None:
        """Does what other threads have asked for; waits for them where there is nothing to decode or to read."""
        wait = self._batcher.idle and not self._readings
        while True:
            try:
                command = self._commands.get(block=wait, timeout=self._tidy() if wait else None)
            except queue.Empty:
                if not wait:
                    return
                continue
            command()
            wait = False

    def _tidy(self) -> float | None:
        """Lets sessions be closed that nobody uses. Returns after how many seconds to do so again, if at all."""
        return None if self._sessions is None else self._sessions.tidy()

    def _add(self, ticket: PendingReply) -> None:
        if not self._alive:
            self._refuse(ticket)
            return
        try:
            prompt, memory = ticket.prompt, None
            if ticket.session is not None:
                ticket.turn = self._sessions.turn(ticket.session, ticket.prompt)
                prompt, memory = ticket.turn.prompt, ticket.turn.memory
            for row in sorted(ticket.unfinished):
                number = self._batcher.add(prompt, ticket.sampling, ticket.stop, stream=row, memory=memory)
                ticket.ids[row] = number
                self._owners[number] = ticket, row
        except SessionError as error:
            self._refuse(ticket, error_answer(error))
        except ValueError:  # the batcher's word for a prompt that cannot be continued: this request's trouble alone
            self._refuse(ticket)

    def _answer(self, question: SessionRequest) -> None:
        if not self._alive:
            question.deliver(STOPPED)
            return
        try:
            if question.operation == "ingest":
                self._readings.append((question, self._sessions.ingest(question.arguments)))
                return
            answer = self._sessions.answer(question.operation, question.arguments)
        except SessionError as error:
            answer = error_answer(error)
        question.deliver({**answer, "done": True})

    def _read_on(self) -> None:
        """One more piece of the document that has waited longest."""
        question, reading = self._readings.popleft()
        try:
            answer = next(reading, None)
        except SessionError as error:
            question.deliver(error_answer(error))
            return
        if answer is None:
            question.deliver({"done": True})
        else:
            self._readings.append((question, reading))
            question.deliver(answer)

    def _stop_reading(self, question: SessionRequest) -> None:
        for each, reading in [*self._readings]:
            if each is question:
                self._readings.remove((each, reading))
                if self._alive or self._closing:
                    with contextlib.suppress(SessionError):  # nobody waits for it any more
                        reading.close()

    def _refuse(self, ticket: PendingReply, news: Answer | None = None) -> None:
        """Ends the request with an error."""
        rows = sorted(ticket.unfinished)
        for row in rows:
            self._end(ticket, row)
        ticket.deliver([Update(row, None, finish="error", news=news) for row in rows])

    def _cancel(self, ticket: PendingReply, row: int | None) -> None:
        for each in sorted(ticket.unfinished if row is None else ticket.unfinished & {row}):
            if self._alive:
                self._batcher.cancel(ticket.ids[each])
            self._end(ticket, each, cancelled=True)

    def _step(self) -> None:
        """One token for each row that is decoded."""
        news: dict[PendingReply, list[Update]] = {}
        tokens = 0
        for event in self._batcher.step():
            if event.id in self._owners:
                ticket, row = self._owners[event.id]
                tokens += event.token is not None
                news.setdefault(ticket, []).append(Update(row, event.token, event.forced, event.finish))
                if ticket.turn is not None and event.token is not None:
                    ticket.turn.feed(event.token)
                if event.finish is not None:
                    self._end(ticket, row)
        began_before = time.monotonic() - self._max_seconds
        for ticket in dict.fromkeys(ticket for ticket, _ in self._owners.values()):
            if ticket.began < began_before:
                news.setdefault(ticket, []).extend(self._break_off(ticket, "time"))
            elif ticket.turn is not None:
                news.setdefault(ticket, []).extend(self._look_after(ticket, ticket.turn))
        self._meter.decoded(tokens)
        for ticket, updates in news.items():
            if updates:
                ticket.deliver(updates)
        if self._served is not None and any(not ticket.unfinished for ticket in news):
            served, self._served = self._served, None
            served()

    def _look_after(self, ticket: PendingReply, turn: SessionTurn) -> list[Update]:
        """What there is to say of a session."""
        if turn.trouble is not None:
            return self._break_off(ticket, "error", error_answer(SessionError(turn.trouble, 507)))
        focus = turn.news()
        return [] if focus is None else [Update(row, None, news={"focus": focus}) for row in sorted(ticket.unfinished)]

    def _break_off(self, ticket: PendingReply, finish: Finish, news: Answer | None = None) -> list[Update]:
        rows = sorted(ticket.unfinished)
        for row in rows:
            self._batcher.cancel(ticket.ids[row])
            self._end(ticket, row)
        return [Update(row, None, finish=finish, news=news) for row in rows]

    def _end(self, ticket: PendingReply, row: int, cancelled: bool = False) -> None:
        ticket.unfinished.remove(row)
        if row in ticket.ids:
            self._owners.pop(ticket.ids[row])
        if ticket.turn is not None and (self._alive or self._closing):  # a model that has failed cannot end the turn
            ticket.turn.end()
        self._meter.end(time.monotonic() - ticket.began, cancelled)
