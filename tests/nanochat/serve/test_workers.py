"""Worker processes that fail: what they were asked is answered at once, and they never return to the code that forked them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat.common import ROOT, UserError
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import STOPPED, Answer, SessionRequest, Stopped
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
        self._lock, self._thread, self._link = threading.Lock(), threading.get_ident(), workers._links[index]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._thread and self._link is not None:
            link, self._link = self._link, None
            os.kill(link.pid, signal.SIGKILL)
            until(lambda: link._socket.fileno() < 0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def build(index: int, failed: Callable[[], None]) -> tuple[Any, dict[str, Any]]:
    return Silent(index), {}


@pytest.fixture
def workers() -> Iterator[Workers]:
    started = Workers(2, build, 1, 1)
    yield started
    started.close()


@pytest.fixture
def workers_that_stay_dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(Workers, "_start_again", lambda self, index, pauses: None)
    started = Workers(2, build, 1, 1)
    yield started
    started.close()


def owner(workers: Workers) -> int:
    return workers._owner("s").index


@pytest.mark.parametrize("operation", ["focus", "list", "reply"])
def test_a_worker_that_dies_just_after_it_was_chosen_leaves_nobody_waiting(workers_that_stay_dead: Workers, operation: str) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    workers = workers_that_stay_dead
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


def test_the_last_worker_s_death_answers_a_list(workers_that_stay_dead: Workers) -> None:
    workers = workers_that_stay_dead
    answers: queue.Queue[Any] = queue.Queue()
    for link in workers._links:
        os.kill(link.pid, signal.SIGSTOP)
    workers.ask(SessionRequest("list", {}), answers.put)
    for link in workers._links:
        os.kill(link.pid, signal.SIGKILL)
    assert answers.get(timeout=5) == STOPPED and not workers.alive


def test_a_killed_worker_is_started_again_and_sessions_stay_where_they_went(workers: Workers) -> None:
    assert workers.readiness() == (2, 2)
    home, pid = owner(workers), workers._links[owner(workers)].pid
    with workers._lock:  # nothing can come back meanwhile
        link = workers._links[home]
        os.kill(pid, signal.SIGKILL)
        link.alive = False
        assert workers.readiness() == (1, 2) and workers.alive
        assert owner(workers) == 1 - home  # and may be open there
        elsewhere = next(name for name in map(str, range(99)) if workers._owner(name).index == 1 - home and name not in workers._moved)
    until(lambda: workers.readiness() == (2, 2) and workers._links[home].pid != pid)
    assert owner(workers) == 1 - home and workers._owner(elsewhere).index == 1 - home
    answers: queue.Queue[Any] = queue.Queue()
    workers.ask(SessionRequest("list", {}), answers.put)
    assert answers.get(timeout=5)["sessions"] == [{"name": "s", "modified": 1, "worker": 1 - home}]
    os.kill(workers._links[1 - home].pid, signal.SIGKILL)
    until(lambda: owner(workers) == home)
    until(lambda: workers.readiness() == (2, 2))


def test_all_are_started_again_and_until_then_it_is_not_for_ever(workers: Workers) -> None:
    pids = [link.pid for link in workers._links]
    with workers._lock:
        for link in workers._links:
            os.kill(link.pid, signal.SIGKILL)
            link.alive = False
        assert workers.readiness() == (0, 2) and not workers.alive
        with pytest.raises(Stopped, match="started again"):
            owner(workers)
    until(lambda: workers.readiness() == (2, 2))
    assert not set(pids) & {link.pid for link in workers._links}
    workers.close()
    with pytest.raises(Stopped, match="restart the server"):
        until(lambda: owner(workers) < 0)


def test_a_worker_that_cannot_start_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.serve.workers.MOST_PAUSE_SECONDS", 0.0)
    (model := tmp_path / "model").touch()

    def build(index: int, failed: Callable[[], None]) -> tuple[Any, dict[str, Any]]:
        if not model.exists():
            raise UserError("no model")
        return Silent(index), {}

    failed = threading.Event()
    workers = Workers(1, build, 1, 1, failed.set)
    model.unlink()
    os.kill(workers._links[0].pid, signal.SIGKILL)
    assert failed.wait(20) and workers.readiness() == (0, 1)
    with pytest.raises(Stopped, match="restart the server"):
        owner(workers)
    workers.close()


def test_no_process_is_left(workers: Workers) -> None:
    pids = [link.pid for link in workers._links] + [workers._spawner._pid]
    workers.close()
    workers.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


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
    lines = [
        "worker 0: RuntimeError: no model",
        "worker 0: RuntimeError: nobody expected this",
        "worker 0 has ended; 0 of 1 continue",
    ]
    assert done.stderr.splitlines()[:3] == lines  # then the worker is back
