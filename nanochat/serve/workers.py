"""Several processes with a model each, one per GPU, behind one server: a request goes to the one with the least to do.

Front and worker speak JSON, a line per message, over a socket of their own. A worker ends when the front does. One that
dies takes its requests along and no others. A session is always the same worker's, as long as that lives.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from nanochat.common import UserError
from nanochat.infer.sampling import Sampling
from nanochat.serve.admission import Counts, Meter
from nanochat.serve.backend import STOPPED, Answer, Deliver, DeliverAnswer, PendingReply, SessionRequest, Stopped, Update
from nanochat.serve.decode_thread import DecodeThread

END_SECONDS = 10.0  # how long a worker may take to end before it is killed

# In the worker: makes what serves the model there, and says what the front has to know about it.
Build = Callable[[int, Callable[[], None]], tuple[DecodeThread, dict[str, Any]]]


class Workers:
    """The front's side of `count` workers. See `Backend`.

    `build(index, failed)` is called in each worker, after which it serves. `description` is what it said there. Must be
    made before this process has threads or a CUDA context, since it forks. Raises `UserError` where a worker cannot start.
    """

    def __init__(self, count: int, build: Build, max_rows: int, max_queue: int, failed: Callable[[], None] = lambda: None) -> None:
        self._meter = Meter(count * max_rows, max_queue)
        self._failed = failed
        self._lock = threading.Lock()  # of tickets, questions and loads
        self._tickets: dict[int, tuple[PendingReply, _Link]] = {}
        self._numbers: dict[PendingReply, int] = {}
        self._questions: dict[int, tuple[SessionRequest, _Link]] = {}
        self._next = 0
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

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop: Collection[int],
        rows: int,
        deliver: Deliver,
        session: str | None = None,
    ) -> PendingReply:
        """See `Backend`."""
        ticket = PendingReply(prompt, sampling, stop, deliver, set(range(rows)), session)
        with self._lock:
            link = self._least_busy() if session is None else self._place(session)
            self._meter.take(rows, len(prompt))
            number, self._next = self._next, self._next + 1
            self._tickets[number], self._numbers[ticket] = (ticket, link), number
            link.rows += rows
        request = {"prompt": list(prompt), "sampling": dataclasses.asdict(sampling), "stop": sorted(stop), "rows": rows}
        request["session"] = session
        link.send({"add": number, **request})
        return ticket

    def cancel(self, ticket: PendingReply, row: int | None = None) -> None:
        """See `Backend`."""
        with self._lock:
            number = self._numbers.get(ticket)
            if number is None:
                return
            link = self._tickets[number][1]
            for each in sorted(ticket.unfinished if row is None else ticket.unfinished & {row}):
                self._end(ticket, each, cancelled=True)
        link.send({"cancel": number, "row": row})

    def ask(self, operation: str, arguments: Mapping[str, Any], deliver: DeliverAnswer) -> SessionRequest:
        """See `Backend`. All workers are asked for a `list`."""
        if operation == "list":
            return self._ask_all(operation, arguments, deliver)
        question = SessionRequest(operation, arguments, deliver)
        with self._lock:
            link = self._place(arguments["session"])
        self._send_question(question, link)
        return question

    def drop(self, question: SessionRequest) -> None:
        """See `Backend`."""
        with self._lock:
            asked = [(number, link) for number, (each, link) in self._questions.items() if each is question]
            for number, _ in asked:
                del self._questions[number]
        for number, link in asked:
            link.send({"drop": number})

    def counts(self) -> Counts:
        """See `Backend`."""
        return self._meter.counts()

    def _least_busy(self) -> _Link:
        """Raises `Stopped`."""
        link = min((link for link in self._links if link.alive), key=lambda link: link.rows, default=None)
        if link is None:
            raise Stopped
        return link

    def _place(self, session: str) -> _Link:
        """The worker that has this session: of those alive, the one that its name and theirs give the highest number."""

        def rank(link: _Link) -> bytes:
            return hashlib.sha256(f"{link.index} {session}".encode("utf-8", "surrogatepass")).digest()

        link = max((link for link in self._links if link.alive), key=rank, default=None)
        if link is None:
            raise Stopped
        return link

    def _ask_all(self, operation: str, arguments: Mapping[str, Any], deliver: DeliverAnswer) -> SessionRequest:
        """Asks every worker, and puts what they know together: of a session, what its own worker says of it."""
        links, said = [link for link in self._links if link.alive], {}
        if not links:
            raise Stopped

        def collect(link: _Link, answer: Answer) -> None:
            with self._lock:
                said[link.index] = answer
                if len(said) < len(links):
                    return
                sessions: dict[str, Answer] = {}
                for index, each in said.items():
                    for info in each.get("sessions", []):
                        if info["name"] not in sessions or self._place(info["name"]).index == index:
                            sessions[info["name"]] = info
            newest_first = sorted(sessions.values(), key=lambda info: (-info["modified"], info["name"]))
            deliver({"sessions": newest_first, "done": True})

        for link in links:
            self._send_question(SessionRequest(operation, arguments, lambda answer, link=link: collect(link, answer)), link)
        return SessionRequest(operation, arguments, deliver)

    def _send_question(self, question: SessionRequest, link: _Link) -> None:
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._questions[number] = question, link
        link.send({"ask": number, "operation": question.operation, "arguments": dict(question.arguments)})

    def _pass_on(self, number: int, answer: Answer) -> None:
        with self._lock:
            question, _ = self._questions.get(number, (None, None))
            if "done" in answer or "error" in answer:
                self._questions.pop(number, None)
        if question is not None:
            question.deliver(answer)

    def close(self) -> None:
        """See `Backend`."""
        self._closing = True
        links, self._closed = self._links[self._closed :], len(self._links)
        for link in links:
            link.hang_up()
        for link in links:
            link.reap()

    def _listen(self, link: _Link) -> None:
        """Passes on what a worker says, until it says nothing any more."""
        for message in link.messages():
            if "answer" in message:
                self._pass_on(message["to"], message["answer"])
                continue
            with self._lock:
                ticket, _ = self._tickets.get(message["of"], (None, link))
                updates = [Update(*update) for update in message["updates"]]
                updates = [update for update in updates if ticket is not None and update.row in ticket.unfinished]
                for update in updates:
                    if update.finish is not None:
                        self._end(ticket, update.row)
            self._meter.decoded(sum(update.token is not None for update in updates))
            if updates:
                ticket.deliver(updates)
        with self._lock:
            link.alive = False
            lost = [ticket for ticket, its_link in self._tickets.values() if its_link is link]
            unanswered = [number for number, (_, its_link) in self._questions.items() if its_link is link]
            updates_of = {ticket: [Update(row, None, finish="error") for row in sorted(ticket.unfinished)] for ticket in lost}
            for ticket, updates in updates_of.items():
                for update in updates:
                    self._end(ticket, update.row)
        for ticket, updates in updates_of.items():
            ticket.deliver(updates)
        for number in unanswered:
            self._pass_on(number, STOPPED)
        if not self._closing:
            left = sum(other.alive for other in self._links)
            print(f"worker {link.index} has ended; {left} of {len(self._links)} go on", file=sys.stderr, flush=True)
            if not left:
                self._failed()

    def _end(self, ticket: PendingReply, row: int, cancelled: bool = False) -> None:
        number = self._numbers[ticket]
        ticket.unfinished.remove(row)
        self._tickets[number][1].rows -= 1
        self._meter.end(time.monotonic() - ticket.began, cancelled)
        if not ticket.unfinished:
            del self._numbers[ticket], self._tickets[number]


class _Link:
    """A worker, and the socket to it."""

    def __init__(self, index: int, build: Build, others: Sequence[_Link]) -> None:
        self.index, self.rows, self.alive = index, 0, True
        self._socket, theirs = socket.socketpair()
        self._sending = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            for link in (*others, self):  # else they would not see the front's end of it close
                link._socket.close()
            _work(index, theirs, build)
        theirs.close()
        self._lines = self._socket.makefile("r", encoding="ascii")

    def wait(self) -> dict[str, Any]:
        """What the worker says when it is ready. Raises `UserError` where it says why it is not."""
        said = json.loads(self._lines.readline() or '{"error": "a worker has ended before it was ready"}')
        if "error" in said:
            raise UserError(f"worker {self.index}: {said['error']}")
        return said

    def send(self, message: dict[str, Any]) -> None:
        """Sends `message`; nothing happens where the worker has ended, which its listener finds out."""
        with self._sending:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self.alive = False

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the worker says, message by message."""
        try:
            for line in self._lines:
                if line.endswith("\n"):  # the last one may be cut off
                    yield json.loads(line)
        except OSError:
            return

    def hang_up(self) -> None:
        """Tells the worker to end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def reap(self) -> None:
        """Waits for its end."""
        deadline = time.monotonic() + END_SECONDS
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        self._lines.close()
        self._socket.close()


def _work(index: int, link: socket.socket, build: Build) -> NoReturn:
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front says when it is time to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sending = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with sending:
            try:
                link.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                os._exit(0)  # the front has ended

    try:
        serving, description = build(index, lambda: link.shutdown(socket.SHUT_RD))
    except UserError as error:
        send({"error": str(error)})
        os._exit(1)
    send(description)
    tickets: dict[int, PendingReply] = {}
    questions: dict[int, SessionRequest] = {}
    answered: set[int] = set()
    for line in link.makefile("r", encoding="ascii"):
        message = json.loads(line)
        if "ask" in message:
            number = message["ask"]

            def answer(said: Answer, number: int = number) -> None:
                if "done" in said or "error" in said:
                    answered.add(number)
                send({"to": number, "answer": said})

            questions[number] = serving.ask(message["operation"], message["arguments"], answer)
            for ended in answered & questions.keys():
                del questions[ended]
                answered.remove(ended)
        elif "drop" in message:
            if message["drop"] in questions:
                serving.drop(questions.pop(message["drop"]))
        elif "cancel" in message:
            if message["cancel"] in tickets:
                serving.cancel(tickets[message["cancel"]], message["row"])
        else:
            number = message["add"]

            def deliver(updates: list[Update], number: int = number) -> None:
                send({"of": number, "updates": [list(update) for update in updates]})

            sampling = Sampling(**message["sampling"])
            tickets[number] = serving.submit(message["prompt"], sampling, message["stop"], message["rows"], deliver, message["session"])
            for ended in [key for key, ticket in tickets.items() if not ticket.unfinished and key != number]:
                del tickets[ended]
    serving.close()
    os._exit(0)  # taking the model down piece by piece would last
