"""The thread that owns a batcher: order, cancelling, limits, trouble. With a real batcher and model."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import pytest

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.engine import Engine
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPT
from nanochat.serve.admission import Busy
from nanochat.serve.backend import Stopped
from nanochat.serve.decode_thread import DecodeThread
from tests.helpers.tiny_model import tiny_model

LONG = Sampling(temperature=0, max_tokens=100_000)


@pytest.fixture(scope="module")
def model() -> GPT:
    return tiny_model()


class Inbox:
    """What requests were told, in the order it came."""

    def __init__(self) -> None:
        self.news: queue.Queue[tuple[str, TokenEvent]] = queue.Queue()
        self.tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.ends: dict[tuple[str, int], str] = {}
        self.order: list[str] = []

    def deliver(self, name: str) -> Callable[[list[TokenEvent]], None]:
        return lambda events: [self.news.put((name, event)) for event in events] and None

    def read(self, seconds: float = 10.0) -> None:
        name, event = self.news.get(timeout=seconds)
        if event.token is not None:
            self.tokens[name, event.row].append(event.token)
            if name not in self.order:
                self.order.append(name)
        if event.finish is not None:
            assert (name, event.row) not in self.ends
            self.ends[name, event.row] = event.finish

    def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.read()


def serve(model: GPT, max_rows: int = 2, max_queue: int = 3) -> DecodeThread:
    return DecodeThread(Batcher(model, max_rows), max_rows, max_queue)


def submit(
    serving: DecodeThread,
    inbox: Inbox,
    name: str,
    sampling: Sampling = LONG,
    rows: int = 1,
    prompt: tuple[int, ...] = (1, 2),
    seconds: float = 60.0,
) -> ReplyRequest:
    request = ReplyRequest(prompt, sampling, rows=rows, deadline=time.monotonic() + seconds)
    serving.submit(request, inbox.deliver(name))
    return request


def settle(serving: DecodeThread, active: int, queued: int) -> None:
    end = time.monotonic() + 10
    while (serving.counts().active, serving.counts().queued) != (active, queued):
        assert time.monotonic() < end, serving.counts()
        time.sleep(0.002)


def test_tokens_are_those_of_the_engine(model: GPT) -> None:
    inbox, sampling = Inbox(), Sampling(temperature=1.0, top_k=0, max_tokens=12, seed=9)
    with serve(model) as serving:
        submit(serving, inbox, "a", sampling, rows=2)
        submit(serving, inbox, "b", sampling, prompt=(7,))
        inbox.read_until(lambda: len(inbox.ends) == 3)
        settle(serving, 0, 0)
        counts = serving.counts()
    alone = Engine(model).generate([(1, 2)], sampling, samples=2) + Engine(model).generate([(7,)], sampling)
    assert [inbox.tokens["a", 0], inbox.tokens["a", 1], inbox.tokens["b", 0]] == [completion.tokens for completion in alone]
    assert set(inbox.ends.values()) == {"length"}
    assert (counts.requests, counts.finished, counts.cancelled, counts.tokens, counts.prompt_tokens) == (2, 2, 0, 36, 3)
    assert counts.tokens_per_second == pytest.approx(3.6)


def test_who_waited_longest_is_next_and_who_goes_makes_room(model: GPT) -> None:
    inbox = Inbox()
    with serve(model) as serving:
        requests = {name: submit(serving, inbox, name) for name in "abcde"}
        settle(serving, 2, 3)
        with pytest.raises(Busy) as busy:
            submit(serving, inbox, "f")
        assert busy.value.retry_after_seconds >= 1
        inbox.read_until(lambda: inbox.order == ["a", "b"])
        serving.cancel(requests["d"].id)  # it still waits
        for gone in "abc":
            serving.cancel(requests[gone].id)
            serving.cancel(requests[gone].id)  # twice is once
        inbox.read_until(lambda: "e" in inbox.order)
        settle(serving, 1, 0)
        assert inbox.order in (["a", "b", "e"], ["a", "b", "c", "e"]) and not inbox.ends
        serving.cancel(requests["e"].id)
        settle(serving, 0, 0)
        assert (serving.counts().cancelled, serving.counts().refused, serving.counts().finished) == (5, 1, 0)


def test_a_cancelled_request_gets_no_further_token(model: GPT) -> None:
    """When the next request's token is there, the cancelled one has long been silent."""
    inbox = Inbox()
    with serve(model) as serving:
        request = submit(serving, inbox, "a")
        inbox.read_until(lambda: len(inbox.tokens["a", 0]) > 3)
        serving.cancel(request.id)
        submit(serving, inbox, "b", Sampling(temperature=0, max_tokens=3))
        inbox.read_until(lambda: ("b", 0) in inbox.ends)
        silent = len(inbox.tokens["a", 0])
        submit(serving, inbox, "c", Sampling(temperature=0, max_tokens=30))
        inbox.read_until(lambda: ("c", 0) in inbox.ends)
        assert len(inbox.tokens["a", 0]) == silent and ("a", 0) not in inbox.ends


def test_a_row_that_is_finished_says_so_and_its_other_row_goes_on(model: GPT) -> None:
    inbox = Inbox()
    with serve(model) as serving:
        request = submit(serving, inbox, "a", rows=2)
        inbox.read_until(lambda: len(inbox.tokens["a", 1]) > 3)
        serving.finish(request.id, 0)
        inbox.read_until(lambda: ("a", 0) in inbox.ends)
        silent, others = len(inbox.tokens["a", 0]), len(inbox.tokens["a", 1])
        inbox.read_until(lambda: len(inbox.tokens["a", 1]) > others + 20)
        assert inbox.ends == {("a", 0): "stop"} and len(inbox.tokens["a", 0]) == silent
        assert (serving.counts().requests, serving.counts().finished) == (1, 0)
        serving.finish(request.id, 1)
        serving.finish(request.id, 1)  # twice is once
        inbox.read_until(lambda: len(inbox.ends) == 2)
        settle(serving, 0, 0)
        assert (serving.counts().requests, serving.counts().finished, serving.counts().cancelled) == (1, 1, 0)


def test_time_is_up_for_all_rows_of_a_request_also_for_one_that_waits(model: GPT) -> None:
    inbox = Inbox()
    with serve(model, max_rows=1) as serving:
        submit(serving, inbox, "a", rows=2, seconds=0.3)
        inbox.read_until(lambda: len(inbox.ends) == 2)
        assert set(inbox.ends.values()) == {"time"} and not inbox.tokens["a", 1]
        settle(serving, 0, 0)


def test_a_prompt_that_cannot_be_continued_is_an_error_of_its_own(model: GPT) -> None:
    inbox = Inbox()
    with serve(model) as serving:
        submit(serving, inbox, "bad", prompt=(10**6,), rows=2)
        submit(serving, inbox, "good", Sampling(max_tokens=2))
        inbox.read_until(lambda: len(inbox.ends) == 3)
        assert inbox.ends == {("bad", 0): "error", ("bad", 1): "error", ("good", 0): "length"} and serving.alive
        settle(serving, 0, 0)
        assert (serving.counts().failed, serving.counts().finished) == (1, 1)


def test_closing_ends_what_runs_and_what_waits(model: GPT) -> None:
    inbox = Inbox()
    serving = serve(model, max_rows=1)
    for name in "ab":
        submit(serving, inbox, name)
    inbox.read()
    serving.close()
    serving.close()
    inbox.read_until(lambda: len(inbox.ends) == 2)
    assert set(inbox.ends.values()) == {"error"} and not serving.alive
    assert (serving.counts().active, serving.counts().queued) == (0, 0)
    with pytest.raises(Stopped):
        submit(serving, inbox, "c")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_decoding_fails_everyone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """No request waits for ever, and nobody is let in any more. The model breaks in the middle of a reply."""
    model, inbox, told = tiny_model(), Inbox(), threading.Event()
    serving = DecodeThread(Batcher(model, 1), 1, 5, told.set)
    for name in "ab":
        submit(serving, inbox, name)
    inbox.read()
    del model.wte
    inbox.read_until(lambda: len(inbox.ends) == 2)
    assert set(inbox.ends.values()) == {"error"} and told.wait(10) and not serving.alive
    with pytest.raises(Stopped):
        submit(serving, inbox, "c")
    serving.close()


def test_many_threads_lose_nothing(model: GPT) -> None:
    """Requests and cancellations from eight threads at once: every row ends once, none is left."""
    inbox, taken = Inbox(), []

    def work(which: int) -> None:
        for i in range(20):
            try:
                request = submit(serving, inbox, f"{which}.{i}", Sampling(max_tokens=1 + i % 4), rows=1 + i % 2)
            except Busy:
                time.sleep(0.002)
                continue
            taken.append(request)
            if i % 3 == 0:
                serving.cancel(request.id)

    with serve(model, max_queue=10) as serving:
        threads = [threading.Thread(target=work, args=(which,)) for which in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        settle(serving, 0, 0)
        counts = serving.counts()
        assert counts.requests == len(taken)
        assert counts.finished + counts.cancelled == len(taken)
