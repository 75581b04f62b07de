"""Worker processes with a model each, one per GPU, behind one server: a request goes to the worker with the least to do.

Front and worker exchange JSON, a line per message, over a socket of their own. A worker ends when the front does. One that
dies takes its requests along and no others, and another is started in its place. A session belongs to the same worker as long as
that lives.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from nanochat.common import UserError
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.admission import Admission, Counts
from nanochat.serve.backend import STOPPED, Answer, Deliver, DeliverAnswer, PendingReply, Readiness, SessionRequest, Stopped
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.spawner import Spawner

STEADY_SECONDS = 60.0  # a worker that lived for as long did not fail at the start
MOST_PAUSE_SECONDS = 30.0  # before a worker is started again
MOST_FAILED_STARTS = 5  # in a row, before a worker is given up
MOST_MOVED = 10_000  # sessions that are remembered to be at another worker than their own

# Called in the worker with its index and the callback for a decoding failure: the decoding thread, and its description for the front.
Build = Callable[[int, Callable[[], None]], tuple[DecodeThread, dict[str, Any]]]


class Workers:
    """The front's side of `count` workers. See `Backend`.

    `build(index, failed)` is called in each worker, after which it serves. `description` is what the first one returned with its
    thread. Must be made before this process has threads or a CUDA context, since it forks. Raises `UserError` if a worker cannot
    start.
    """

    def __init__(self, count: int, build: Build, max_rows: int, max_queue: int, failed: Callable[[], None] = lambda: None) -> None:
        self._admission = Admission(count * max_rows, max_queue)
        self._failed = failed
        self._lock = threading.Lock()  # of replies, questions, loads and moved sessions
        self._replies: dict[int, tuple[PendingReply, _Link]] = {}  # by the request's id
        self._questions: dict[int, tuple[DeliverAnswer, _Link]] = {}  # by the session request's id
        self._moved: OrderedDict[str, _Link] = OrderedDict()  # sessions that another worker took over
        self._closing, self._closed, self._given_up = threading.Event(), False, 0
        self._spawner = Spawner(functools.partial(_serve, build))
        self._links = [_Link(index, self._spawner) for index in range(count)]
        try:
            self.description = [link.wait() for link in self._links][0]
        except UserError:
            self.close()
            raise
        for link in self._links:
            threading.Thread(target=self._keep, args=(link,), name=f"worker {link.index}", daemon=True).start()

    @property
    def alive(self) -> bool:
        """See `Backend`."""
        return any(link.alive for link in self._links)

    def readiness(self) -> Readiness:
        """See `Backend`."""
        return Readiness(sum(link.alive for link in self._links), len(self._links))

    def submit(self, request: ReplyRequest, deliver: Deliver) -> None:
        """See `Backend`."""
        with self._lock:
            link = self._least_busy() if request.session is None else self._owner(request.session)
            self._admission.admit(request.rows, len(request.prompt))
            self._replies[request.id] = PendingReply(request, deliver), link
            link.rows += request.rows
        link.send("submit", vars(request) | {"sampling": vars(request.sampling), "stop": list(request.stop)})

    def cancel(self, id: int) -> None:
        """See `Backend`."""
        with self._lock:
            if id not in self._replies:
                return
            reply, link = self._replies[id]
            reply.outcome = "cancelled"
            for row in sorted(reply.unfinished):
                self._end(reply, row)
        link.send("cancel", id)

    def finish(self, id: int, row: int) -> None:
        """See `Backend`."""
        with self._lock:
            _, link = self._replies.get(id, (None, None))
        if link is not None:
            link.send("finish", id, row)

    def ask(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """See `Backend`. A `list` is asked of all workers."""
        if request.operation == "list":
            self._list(request, deliver)
            return
        with self._lock:  # one hold: a worker that ends answers whatever is registered with it
            link = self._owner(request.arguments["session"])
            self._questions[request.id] = deliver, link
        link.send("ask", vars(request))

    def drop(self, id: int) -> None:
        """See `Backend`."""
        with self._lock:
            _, link = self._questions.pop(id, (None, None))
        if link is not None:
            link.send("drop", id)

    def counts(self) -> Counts:
        """See `Backend`."""
        return self._admission.counts()

    def _alive_links(self) -> list[_Link]:
        """Raises `Stopped` if there are none."""
        links = [link for link in self._links if link.alive]
        if not links:
            raise Stopped(restarting=not self._closing.is_set() and self._given_up < len(self._links))
        return links

    def _least_busy(self) -> _Link:
        return min(self._alive_links(), key=lambda link: link.rows)

    def _owner(self, session: str) -> _Link:
        """The worker of this session, by rendezvous hashing: of those alive, the one with the highest rank.

        A session that was at another worker while its own was being restarted stays there: it may be open.
        """
        alive = self._alive_links()
        if (moved := self._moved.get(session)) is not None and moved.alive:
            return moved
        owner = max(alive, key=lambda link: _rank(link.index, session))
        if owner.index != max(range(len(self._links)), key=lambda index: _rank(index, session)):
            self._moved[session] = owner
            while len(self._moved) > MOST_MOVED:
                self._moved.popitem(last=False)
        else:
            self._moved.pop(session, None)
        return owner

    def _list(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """Asks every worker, and merges their answers: of a session, that of its worker."""
        answers: dict[int, Answer] = {}

        def collect(index: int, answer: Answer) -> None:
            with self._lock:
                answers[index] = answer
                if len(answers) < len(links):
                    return
            infos: dict[str, tuple[bool, bytes, Answer]] = {}
            for worker, its_answer in answers.items():
                for info in its_answer.get("sessions", []):
                    name = info["name"]
                    moved = self._moved.get(name)
                    mine = (moved is not None and moved.index == worker, _rank(worker, name), info)
                    if name not in infos or mine[:2] > infos[name][:2]:
                        infos[name] = mine
            sessions = sorted((info for *_, info in infos.values()), key=lambda info: (-info["modified"], info["name"]))  # newest first
            listed = any("sessions" in its_answer for its_answer in answers.values())
            deliver({"sessions": sessions, "done": True} if listed else answer)

        with self._lock:
            links = self._alive_links()
            parts = [SessionRequest(request.operation, request.arguments) for _ in links]
            for link, part in zip(links, parts, strict=True):
                self._questions[part.id] = functools.partial(collect, link.index), link
        for link, part in zip(links, parts, strict=True):
            link.send("ask", vars(part))

    def _pass_on(self, id: int, answer: Answer) -> None:
        with self._lock:
            deliver, _ = self._questions.get(id, (None, None))
            if "done" in answer or "error" in answer:
                self._questions.pop(id, None)
        if deliver is not None:
            deliver(answer)

    def close(self) -> None:
        """See `Backend`."""
        self._closing.set()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for link in self._links:
            link.hang_up()
        self._spawner.close()

    def _keep(self, link: _Link | None) -> None:
        """Listens to a worker, and starts another when it has ended."""
        pauses = 0
        while link is not None:
            began = time.monotonic()
            self._listen(link)
            pauses = 0 if time.monotonic() > began + STEADY_SECONDS else pauses + 1
            link = self._start_again(link.index, pauses)

    def _start_again(self, index: int, pauses: int) -> _Link | None:
        """Another worker `index`, which failed soon after its start `pauses` times. None at the end, or if it cannot be started."""
        for failures in range(MOST_FAILED_STARTS):
            pause = pauses + failures - 1
            if self._closing.wait(min(MOST_PAUSE_SECONDS, 2.0**pause) if pause > 0 else 0.0):
                return None
            try:
                link = _Link(index, self._spawner)
                description = link.wait()
                if description != self.description:
                    link.hang_up()
                    raise UserError(f"worker {index}: the model is another one now; restart the server")
            except (UserError, OSError) as error:
                if not self._closing.is_set():
                    print(f"worker {index} could not be started again: {error}", file=sys.stderr, flush=True)
                continue
            with self._lock:
                if not self._closed:
                    self._links[index] = link
                    print(f"worker {index} is back; {self.readiness().ready} of {len(self._links)} serve", file=sys.stderr, flush=True)
                    return link
            link.hang_up()
            return None
        with self._lock:
            self._given_up += 1
            last = self._given_up == len(self._links)
        if last and not self._closing.is_set():
            self._failed()
        return None

    def _listen(self, link: _Link) -> None:
        """Passes on the messages of a worker until it ends."""
        for message in link.messages():
            if "answer" in message:
                self._pass_on(message["to"], message["answer"])
                continue
            events = [TokenEvent(*event) for event in message["events"]]
            with self._lock:
                reply, _ = self._replies.get(events[0].id, (None, link))
                events = [event for event in events if reply is not None and event.row in reply.unfinished]
                for event in events:
                    if event.finish is not None:
                        self._end(reply, event.row, failed=event.finish == "error")
            self._admission.decoded(sum(event.token is not None for event in events))
            if events:
                reply.deliver(events)
        with self._lock:
            link.alive = False
            lost = [(reply, reply.events("error")) for reply, its_link in self._replies.values() if its_link is link]
            unanswered = [id for id, (_, its_link) in self._questions.items() if its_link is link]
            for reply, events in lost:
                for event in events:
                    self._end(reply, event.row, failed=True)
        for reply, events in lost:
            reply.deliver(events)
        for id in unanswered:
            self._pass_on(id, STOPPED)
        link.close()
        if not self._closing.is_set():
            left, workers = self.readiness()
            print(f"worker {link.index} has ended; {left} of {workers} continue", file=sys.stderr, flush=True)

    def _end(self, reply: PendingReply, row: int, failed: bool = False) -> None:
        id = reply.request.id
        reply.unfinished.remove(row)
        self._replies[id][1].rows -= 1
        self._admission.release(time.monotonic() - reply.began)
        if failed:
            reply.outcome = "failed"
        if not reply.unfinished:
            del self._replies[id]
            self._admission.ended(reply.outcome)


def _rank(worker: int, session: str) -> bytes:
    return hashlib.sha256(f"{worker} {session}".encode("utf-8", "surrogatepass")).digest()


class _Link:
    """A worker, and the socket to it."""

    def __init__(self, index: int, spawner: Spawner) -> None:
        self.index, self.rows, self.alive = index, 0, True
        self._sending = threading.Lock()
        self.pid, self._socket = spawner.start(index)
        self._lines = self._socket.makefile("r", encoding="ascii")

    def wait(self) -> dict[str, Any]:
        """The worker's description, sent when it is ready. Raises `UserError` with its reason if it cannot start."""
        said = json.loads(self._lines.readline() or '{"error": "ended before it was ready"}')
        if "error" in said:
            self.close()
            raise UserError(f"worker {self.index}: {said['error']}")
        return said

    def send(self, method: str, *arguments: Any) -> None:
        """Calls a method of the worker's decoding thread; if the worker has ended, nothing happens, as its listener finds out."""
        with self._sending:
            try:
                self._socket.sendall(json.dumps([method, *arguments]).encode() + b"\n")
            except OSError:
                self.alive = False

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages of the worker, until it ends."""
        try:
            for line in self._lines:
                if line.endswith("\n"):  # the last one may be cut off
                    yield json.loads(line)
        except OSError:
            return

    def hang_up(self) -> None:
        """Makes the worker end."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket of a worker that has ended."""
        with self._sending:
            self._lines.close()
            self._socket.close()


def _serve(build: Build, index: int, link: socket.socket) -> int:
    """Main of a worker: builds the decoding thread and serves until the front or the model ends; returns the exit code."""
    sending = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with sending:
            try:
                link.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                os._exit(0)  # the front has ended

    try:
        thread, description = build(index, lambda: link.shutdown(socket.SHUT_RD))
    except UserError as error:
        send({"error": str(error)})
        return 1
    send(description)
    with thread, contextlib.suppress(Stopped):
        for line in link.makefile("r", encoding="ascii"):
            match json.loads(line):
                case ["submit", fields]:
                    request = ReplyRequest(**fields | {"sampling": Sampling(**fields["sampling"])})
                    thread.submit(request, lambda events: send({"events": events}))
                case ["cancel", id]:
                    thread.cancel(id)
                case ["finish", id, row]:
                    thread.finish(id, row)
                case ["ask", fields]:
                    asked = SessionRequest(**fields)
                    thread.ask(asked, lambda answer, id=asked.id: send({"to": id, "answer": answer}))
                case ["drop", id]:
                    thread.drop(id)
    return 0
