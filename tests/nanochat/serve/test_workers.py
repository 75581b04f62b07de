"""Worker processes that fail: what they were asked is answered at once, and they never return to the code that forked them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nanochat.common import ROOT
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import STOPPED, Answer, SessionRequest
from nanochat.serve.workers import Workers


class Silent:
    """A decoding thread without a model: it lists one session, and never answers anything else."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, request: ReplyRequest, deliver: Callable[[list[TokenEvent]], None]) -> None:
        pass

    def ask(self, request: SessionRequest, deliver: Callable[[Answer], None]) -> None:
        if request.operation == "list":
            deliver({"sessions": [{"name": "s", "modified": 1, "worker": self._index}], "done": True})


class Lethal:
    """A lock that kills a worker, and waits until its listener is through, when it is first released by the thread that made it."""

    def __init__(self, workers: Workers, index: int) -> None:
        self._lock, self._thread, self._pid = threading.Lock(), threading.get_ident(), workers._links[index].pid
        self._listener = next(thread for thread in threading.enumerate() if thread.name == f"worker {index}")

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._thread and self._listener is not None:
            listener, self._listener = self._listener, None
            os.kill(self._pid, signal.SIGKILL)
            listener.join(10)


@pytest.fixture
def workers() -> Iterator[Workers]:
    started = Workers(2, lambda index, failed: (Silent(index), {"index": index}), 1, 1)
    yield started
    started.close()


def owner(workers: Workers) -> int:
    return workers._owner("s").index


@pytest.mark.parametrize("operation", ["focus", "list", "reply"])
def test_a_worker_that_dies_just_after_it_was_chosen_leaves_nobody_waiting(workers: Workers, operation: str) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    dying = owner(workers)
    workers._lock = Lethal(workers, dying)
    if operation == "reply":
        request = ReplyRequest([1], Sampling(seed=3), [5], session="s")
        workers.submit(request, answers.put)
        assert answers.get(timeout=5) == [TokenEvent(request.id, 0, None, finish="error")]
    elif operation == "focus":
        workers.ask(SessionRequest("focus", {"session": "s"}), answers.put)
        assert answers.get(timeout=5) == STOPPED
    else:  # the other worker answers, and owns the session from now on
        workers.ask(SessionRequest("list", {}), answers.put)
        assert answers.get(timeout=5) == {"sessions": [{"name": "s", "modified": 1, "worker": 1 - dying}], "done": True}
    assert owner(workers) == 1 - dying and workers.alive
    assert (workers.counts().active, workers.counts().queued) == (0, 0)


def test_the_last_worker_s_death_answers_a_list(workers: Workers) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    for link in workers._links:
        os.kill(link.pid, signal.SIGSTOP)
    workers.ask(SessionRequest("list", {}), answers.put)
    for link in workers._links:
        os.kill(link.pid, signal.SIGKILL)
    assert answers.get(timeout=5) == STOPPED and not workers.alive


PROGRAM = """
import queue
from nanochat.common import UserError
from nanochat.serve.backend import SessionRequest
from nanochat.serve.workers import Workers

class Failing:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def ask(self, request, deliver):
        raise RuntimeError("nobody\\nexpected this")

def build(index, failed):
    if fails_at_once:
        raise RuntimeError("no model")
    return Failing(), {}

for fails_at_once in (True, False):
    answers = queue.Queue()
    try:
        workers = Workers(1, build, 1, 1)
        workers.ask(SessionRequest("text", {"session": "s"}), answers.put)
        print(answers.get(timeout=30)["error"]["status"], flush=True)
    except UserError as error:
        print(error, flush=True)
    finally:
        print("cleanup", flush=True)
"""


def test_an_unexpected_exception_ends_a_worker_with_one_line_and_without_the_cleanup_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and done.stdout == "worker 0: ended before it was ready\ncleanup\n503\ncleanup\n"
    lines = ["worker 0: RuntimeError: no model", "worker 0: RuntimeError: nobody expected this", "worker 0 has ended; 0 of 1 continue"]
    assert done.stderr.splitlines() == lines
