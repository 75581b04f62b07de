"""Decoding thread: owns a `Batcher` and the sessions, and takes requests from any thread through a queue.

Requests are served in the order they came; a request that is cancelled has left the batch before the next token is decoded.
Documents are read into sessions in short pieces, between two tokens of the other requests, and take at most a third of the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.request import Finish, ReplyRequest, TokenEvent
from nanochat.serve.admission import Admission, Counts
from nanochat.serve.backend import (
    STOPPED,
    Answer,
    Deliver,
    DeliverAnswer,
    PendingReply,
    Readiness,
    SessionError,
    SessionRequest,
    Sessions,
    SessionTurn,
    Stopped,
    error_answer,
)
from nanochat.serve.time_share import TimeShare


class DecodeThread:
    """The thread that owns `batcher`, which decodes `max_rows` rows at a time; `max_queue` more may wait. See `Backend`.

    If decoding fails the thread ends with that error (as the process's threads report it), `alive` is False from then on and
    `failed` is called. The thread calls `served` once, after the first request that was answered to its end.
    """

    def __init__(
        self,
        batcher: Batcher,
        max_rows: int,
        max_queue: int,
        failed: Callable[[], None] = lambda: None,
        sessions: Sessions | None = None,
        served: Callable[[], None] | None = None,
    ) -> None:
        self._batcher, self._failed, self._sessions, self._served = batcher, failed, sessions, served
        self._admission = Admission(max_rows, max_queue)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._gate = threading.Lock()  # a request is taken before the thread ends, or not at all
        self._alive = True
        self._closing = False
        self._replies: dict[int, PendingReply] = {}  # of the thread: by the request's id
        self._share = TimeShare()
        self._readings: deque[tuple[int, DeliverAnswer, Iterator[Answer]]] = deque()  # of the thread: documents, by the request's id
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

    def submit(self, request: ReplyRequest, deliver: Deliver) -> None:
        """See `Backend`. A prompt that the batcher refuses ends with `error`."""
        if request.session is not None and self._sessions is None:
            raise ValueError(f"invalid session {request.session}: there are no sessions here")
        reply = PendingReply(request, deliver)
        with self._gate:
            if not self._alive:
                raise Stopped
            self._admission.admit(request.rows, len(request.prompt))
            self._commands.put(lambda: self._add(reply))

    def cancel(self, id: int) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._cancel(id))

    def finish(self, id: int, row: int) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._finish(id, row))

    def ask(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """See `Backend`."""
        with self._gate:
            if not self._alive or self._sessions is None:
                raise Stopped
            self._commands.put(lambda: self._answer(request, deliver))

    def drop(self, id: int) -> None:
        """See `Backend`."""
        self._commands.put(lambda: self._stop_reading(id))

    def counts(self) -> Counts:
        """See `Backend`."""
        return self._admission.counts()

    def readiness(self) -> Readiness:
        """See `Backend`."""
        return Readiness(int(self._alive), 1)

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
                self._share.busy = not self._batcher.idle
                if not self._closing and self._share.busy:
                    self._share.begin()
                    self._step()
                    self._share.decoded()
                if not self._closing and self._readings and self._share.may_read:
                    self._share.begin()
                    self._read_on()
                    self._share.read()
        finally:
            with self._gate:
                self._alive = False
            for reply in list(self._replies.values()):
                self._refuse(reply)
            for id, deliver, _ in list(self._readings):
                self._stop_reading(id)
                deliver(STOPPED)
            while not self._commands.empty():
                self._commands.get()()
            self._batcher.close()
            if self._sessions is not None and self._closing:
                self._sessions.close()
            if not self._closing:
                self._failed()

    def _take_commands(self) -> None:
        """Runs the commands of other threads; waits for them if there is nothing to decode or to read."""
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
        """Closes idle sessions. Returns the seconds until the next time, or None."""
        return None if self._sessions is None else self._sessions.tidy()

    def _add(self, reply: PendingReply) -> None:
        if not self._alive:
            self._refuse(reply)
            return
        request, memory = reply.request, None
        try:
            if request.session is not None:
                reply.turn = self._sessions.turn(request.session, request.prompt)
                request, memory = dataclasses.replace(request, prompt=reply.turn.prompt), reply.turn.memory
            self._batcher.add(request, memory)
            self._replies[request.id] = reply
        except SessionError as error:
            self._refuse(reply, error_answer(error))
        except ValueError:  # a prompt that cannot be continued is this request's trouble alone
            self._refuse(reply)

    def _answer(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        if not self._alive:
            deliver(STOPPED)
            return
        try:
            if request.operation == "ingest":
                self._readings.append((request.id, deliver, self._sessions.ingest(request.arguments, self._share.seconds)))
                return
            answer = self._sessions.answer(request.operation, request.arguments)
        except SessionError as error:
            answer = error_answer(error)
        deliver({**answer, "done": True})

    def _read_on(self) -> None:
        """Reads one more piece of the document that has waited longest."""
        id, deliver, reading = self._readings.popleft()
        try:
            answer = next(reading, None)
        except SessionError as error:
            deliver(error_answer(error))
            return
        if answer is None:
            deliver({"done": True})
        else:
            self._readings.append((id, deliver, reading))
            deliver(answer)

    def _stop_reading(self, id: int) -> None:
        for each in [each for each in self._readings if each[0] == id]:
            self._readings.remove(each)
            if self._alive or self._closing:
                with contextlib.suppress(SessionError):  # nobody waits for it any more
                    each[2].close()

    def _cancel(self, id: int) -> None:
        if (reply := self._replies.get(id)) is not None:
            self._batcher.cancel(id)
            reply.outcome = "cancelled"
            self._end_all(reply, "error")  # nobody reads the events

    def _finish(self, id: int, row: int) -> None:
        reply = self._replies.get(id)
        if reply is not None and row in reply.unfinished:
            self._batcher.cancel(id, row)
            reply.deliver([self._end(reply, TokenEvent(id, row, None, finish="stop"))])

    def _step(self) -> None:
        """Decodes one token for each active row."""
        outgoing: dict[PendingReply, list[TokenEvent]] = {}
        events = self._batcher.step()
        for event in events:
            reply = self._replies[event.id]
            if reply.turn is not None:
                reply.turn.feed(event.token)
            outgoing.setdefault(reply, []).append(event if event.finish is None else self._end(reply, event))
        now = time.monotonic()
        for reply in list(self._replies.values()):
            if now > reply.request.deadline:
                outgoing.setdefault(reply, []).extend(self._break_off(reply, "time"))
            elif reply.turn is not None:
                outgoing.setdefault(reply, []).extend(self._session_events(reply, reply.turn))
        self._admission.decoded(len(events))
        for reply, its_events in outgoing.items():
            if its_events:
                reply.deliver(its_events)
        if self._served is not None and any(not reply.unfinished for reply in outgoing):
            served, self._served = self._served, None
            served()

    def _session_events(self, reply: PendingReply, turn: SessionTurn) -> list[TokenEvent]:
        """The move of a session's focus, or the end of its reply if the session is in trouble."""
        if turn.trouble is not None:
            return self._break_off(reply, "error", error_answer(SessionError(turn.trouble, 507)))
        focus = turn.news()
        return [] if focus is None else reply.events(None, {"focus": focus})

    def _break_off(self, reply: PendingReply, finish: Finish, news: Answer | None = None) -> list[TokenEvent]:
        """Ends a request that is being decoded; returns the events that say so."""
        self._batcher.cancel(reply.request.id)
        return self._end_all(reply, finish, news)

    def _refuse(self, reply: PendingReply, news: Answer | None = None) -> None:
        """Ends a request with an error."""
        reply.deliver(self._end_all(reply, "error", news))

    def _end_all(self, reply: PendingReply, finish: Finish, news: Answer | None = None) -> list[TokenEvent]:
        if finish == "error" and reply.outcome != "cancelled":
            reply.outcome = "failed"
        return [self._end(reply, event) for event in reply.events(finish, news)]

    def _end(self, reply: PendingReply, event: TokenEvent) -> TokenEvent:
        """Ends the row of its last event. Returns the event, which becomes an error if the session's turn could not be saved."""
        reply.unfinished.remove(event.row)
        self._admission.release(time.monotonic() - reply.began)
        if reply.unfinished:
            return event
        self._replies.pop(reply.request.id, None)
        if reply.turn is not None and (self._alive or self._closing):  # a model that has failed cannot end the turn
            try:
                reply.turn.end()
            except SessionError as error:
                print(f"a turn of session {reply.request.session} was not saved: {error}", file=sys.stderr, flush=True)
                if event.finish != "error":
                    event = event._replace(finish="error", news=error_answer(error))
                    reply.outcome = "failed" if reply.outcome == "finished" else reply.outcome
        self._admission.ended(reply.outcome)
        return event
