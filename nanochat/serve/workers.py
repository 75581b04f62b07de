"""Worker processes with a model each, one per GPU, behind one server: a request goes to the worker with the least to do.

Front and worker exchange JSON, a line per message, over a socket of their own. A worker ends when the front does. One that
dies takes its requests along and no others. A session belongs to the same worker as long as that lives.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from nanochat.common import UserError
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.admission import Admission, Counts
from nanochat.serve.backend import STOPPED, Answer, Deliver, DeliverAnswer, PendingReply, SessionRequest, Stopped
from nanochat.serve.decode_thread import DecodeThread

END_SECONDS = 10.0  # how long a worker may take to end before it is killed

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
        self._lock = threading.Lock()  # of replies, questions and loads
        self._replies: dict[int, tuple[PendingReply, _Link]] = {}  # by the request's id
        self._questions: dict[int, tuple[DeliverAnswer, _Link]] = {}  # by the session request's id
        self._closing, self._closed = False, 0
        self._links: list[_Link] = []
        for index in range(count):
            self._links.append(_Link(index, build, self._links))
        try:
            self.description = [link.wait() for link in self._links][0]
        except UserError:
            self.close()
            raise
        for link in self._links:
            threading.Thread(target=self._listen, args=(link,), name=f"worker {link.index}", daemon=True).start()

    @property
    def alive(self) -> bool:
        """See `Backend`."""
        return any(link.alive for link in self._links)

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
            raise Stopped
        return links

    def _least_busy(self) -> _Link:
        return min(self._alive_links(), key=lambda link: link.rows)

    def _owner(self, session: str) -> _Link:
        """The worker of this session, by rendezvous hashing: of those alive, the one with the highest rank."""
        return max(self._alive_links(), key=lambda link: _rank(link.index, session))

    def _list(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """Asks every worker, and merges their answers: of a session, that of the worker with the highest rank."""
        answers: dict[int, Answer] = {}

        def collect(index: int, answer: Answer) -> None:
            with self._lock:
                answers[index] = answer
                if len(answers) < len(links):
                    return
            infos: dict[str, tuple[bytes, Answer]] = {}
            for worker, its_answer in answers.items():
                for info in its_answer.get("sessions", []):
                    rank = _rank(worker, info["name"])
                    if info["name"] not in infos or rank > infos[info["name"]][0]:
                        infos[info["name"]] = rank, info
            sessions = sorted((info for _, info in infos.values()), key=lambda info: (-info["modified"], info["name"]))  # newest first
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
        self._closing = True
        links, self._closed = self._links[self._closed :], len(self._links)
        for link in links:
            link.hang_up()
        for link in links:
            link.reap()

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
        if not self._closing:
            left = sum(other.alive for other in self._links)
            print(f"worker {link.index} has ended; {left} of {len(self._links)} continue", file=sys.stderr, flush=True)
            if not left:
                self._failed()

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

    def __init__(self, index: int, build: Build, others: Sequence[_Link]) -> None:
        self.index, self.rows, self.alive = index, 0, True
        self._socket, theirs = socket.socketpair()
        self._sending = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            _work(index, theirs, [link._socket for link in (*others, self)], build)
        theirs.close()
        self._lines = self._socket.makefile("r", encoding="ascii")

    def wait(self) -> dict[str, Any]:
        """The worker's description, sent when it is ready. Raises `UserError` with its reason if it cannot start."""
        said = json.loads(self._lines.readline() or '{"error": "ended before it was ready"}')
        if "error" in said:
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

    def reap(self) -> None:
        """Waits for its end."""
        deadline = time.monotonic() + END_SECONDS
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        self._lines.close()
        self._socket.close()


def _work(index: int, link: socket.socket, fronts: Sequence[socket.socket], build: Build) -> NoReturn:
    """Main of a worker process. It never returns: the parent's stack is above it, whose cleanup is not the worker's."""
    code = 1
    try:
        for front in fronts:  # otherwise the others would not see the front's end of it close
            front.close()
        code = _serve(index, link, build)
    except BaseException as error:
        print(f"worker {index}: {' '.join(f'{type(error).__name__}: {error}'.split())}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)  # taking the model down piece by piece would take long


def _serve(index: int, link: socket.socket, build: Build) -> int:
    """Builds the decoding thread and serves until the front or the model ends; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
