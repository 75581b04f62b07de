"""Continuous batching: whatever shares the batch, comes, goes or is cancelled, each request gets what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import FIRST_CAPACITY
from nanochat.infer.memory_kv_cache import ExternalMemory
from nanochat.infer.request import ReplyRequest, TokenEvent
from nanochat.infer.sampling import BLOCK, Sampling, Uniforms
from nanochat.model.gpt import GPT
from tests.helpers.tiny_model import full_logits, tiny_model
from tests.nanochat.infer.test_memory_kv_cache import Keeper

STOP = (5, 9, 17)
SAMPLINGS = [
    {"temperature": 0},
    {"top_k": 5},
    {"top_k": 0},
    {"top_k": 0, "top_p": 0.8, "temperature": 1.3},
    {"top_k": 12, "top_p": 0.6},
    {"top_k": 99, "temperature": 2.0},
]


def alone(model: GPT, prompt: Sequence[int], sampling: Sampling, stop: Sequence[int], stream: int) -> list[int]:
    """The tokens of a request that has a context of its own."""
    engine = Engine(model)
    context, hidden = engine.read([prompt])
    return [token for (token,) in engine.resume(context, hidden, sampling, stop, [stream])]


def drain(batcher: Batcher, events: list[TokenEvent] | None = None) -> dict[int, list[TokenEvent]]:
    """Steps until nothing is left; the events of each request."""
    events = events if events is not None else []
    while not batcher.idle:
        events += batcher.step()
    by_id: dict[int, list[TokenEvent]] = {}
    for event in events:
        by_id.setdefault(event.id, []).append(event)
    return by_id


def add(
    batcher: Batcher,
    prompt: Sequence[int],
    sampling: Sampling,
    stop: Sequence[int] = (),
    stream: int = 0,
    memory: ExternalMemory | None = None,
) -> int:
    """Adds a request for one reply; returns its id."""
    request = ReplyRequest(prompt, sampling, stop, first_stream=stream)
    batcher.add(request, memory)
    return request.id


def a_request(random_: random.Random) -> tuple[list[int], Sampling, int]:
    prompt = [random_.randrange(61) for _ in range(random_.randint(1, 40))]
    sampling = Sampling(**random_.choice(SAMPLINGS), max_tokens=random_.randint(1, 80), seed=random_.randrange(9))
    return prompt, sampling, random_.randrange(3)


def test_greedy_rows_of_any_length_are_the_argmax_of_the_full_forward() -> None:
    model = tiny_model(window_pattern="SSL")
    batcher, random_, events = Batcher(model, 4, prefill_chunk=16), random.Random(1), []
    prompts = {}
    for length in (1, 30, 12, 50, 3, 21, 70):  # one joins every few steps, so that all are of different lengths
        prompt = [random_.randrange(61) for _ in range(length)]
        prompts[add(batcher, prompt, Sampling(temperature=0, max_tokens=30 + length % 7))] = prompt
        for _ in range(5):
            events += batcher.step()
    for id, row in drain(batcher, events).items():
        tokens = [event.token for event in row]
        likeliest = full_logits(model, prompts[id] + tokens)[len(prompts[id]) - 1 : -1].argmax(-1)
        assert tokens == likeliest.tolist()
        assert [event.finish for event in row] == [None] * (len(row) - 1) + ["length"]
        assert len(row) == 30 + len(prompts[id]) % 7


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_rows=st.integers(1, 5),
    chunk=st.sampled_from([1, 7, 64]),
    actions=st.lists(st.sampled_from(["add", "add", "again", "cancel", "step", "step", "step", "steps"]), max_size=40),
    pattern=st.sampled_from(["L", "SL"]),
)
def test_any_schedule_gives_each_request_what_it_gets_alone(seed: int, max_rows: int, chunk: int, actions: list[str], pattern: str) -> None:
    model, random_ = tiny_model(window_pattern=pattern, depth=2), random.Random(seed)
    batcher = Batcher(model, max_rows, prefill_chunk=chunk)
    requests, cancelled, events = {}, {}, []
    for action in actions:
        if action == "add" or (action == "again" and not requests):
            request = a_request(random_)
            requests[add(batcher, request[0], request[1], STOP, request[2])] = request
        elif action == "again":  # the same prompt once more, as samples of a prompt are
            prompt, sampling, stream = list(requests.values())[-1]
            requests[add(batcher, prompt, sampling, STOP, stream + 1)] = (prompt, sampling, stream + 1)
        elif action == "cancel" and requests:
            id = random_.choice(list(requests))
            finished = any(event.id == id and event.finish for event in events)
            batcher.cancel(id)
            if not finished:
                cancelled.setdefault(id, sum(event.id == id for event in events))
        else:
            for _ in range(20 if action == "steps" else 1):
                events += batcher.step()
        assert batcher.active <= max_rows
    got = drain(batcher, events)
    for id, (prompt, sampling, stream) in requests.items():
        tokens, expected = [event.token for event in got.get(id, [])], alone(model, prompt, sampling, STOP, stream)
        if id in cancelled:
            assert tokens == expected[: cancelled[id]]  # and none after it
        else:
            assert tokens == expected
            assert got[id][-1].finish == ("stop" if tokens[-1] in STOP else "length")
            assert all(event.finish is None for event in got[id][:-1])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_rows=st.integers(1, 4),
    chunk=st.sampled_from([1, 7, 64]),
    actions=st.lists(st.sampled_from(["plain", "memory", "memory", "go on", "cancel", "step", "step", "steps"]), max_size=30),
)
def test_rows_with_a_memory_go_on_with_it_beside_others(seed: int, max_rows: int, chunk: int, actions: list[str]) -> None:
    """Each memory has the prompt and what was said but for the last token when its request ends, also by being cancelled."""
    model, random_ = tiny_model(depth=2), random.Random(seed)
    batcher = Batcher(model, max_rows, prefill_chunk=chunk)
    requests: dict[int, tuple[list[int], list[int], Sampling, int, Keeper | None]] = {}
    events: list[TokenEvent] = []
    ended: set[int] = set()

    def check(id: int, cancelled: bool = False) -> None:
        before, prompt, sampling, stream, keeper = requests[id]
        tokens = [event.token for event in events if event.id == id]
        expected = alone(model, [*before, *prompt], sampling, STOP, stream)
        assert tokens == (expected[: len(tokens)] if cancelled else expected)
        if keeper is not None:
            read = bool(tokens) or not cancelled
            assert keeper.tokens.tolist() == [*before, *(prompt if read else []), *tokens[:-1]]
        ended.add(id)

    def step() -> None:
        new = batcher.step()
        events.extend(new)
        for event in new:
            if event.finish is not None:
                check(event.id)

    for action in actions:
        if action in ("plain", "memory", "go on"):
            prompt, sampling, stream = a_request(random_)
            free = [requests[id][4] for id in ended if requests[id][4] is not None]
            kept = torch.randint(61, (random_.randrange(30),), generator=torch.Generator().manual_seed(seed))
            keeper = None if action == "plain" else free[-1] if action == "go on" and free else Keeper(model, tokens=kept)
            before = [] if keeper is None else keeper.tokens.tolist()
            busy = any(request[4] is keeper for id, request in requests.items() if id not in ended) and keeper is not None
            if busy:
                with pytest.raises(ValueError, match="another request continues this memory"):
                    add(batcher, prompt, sampling, STOP, stream, keeper)
            else:
                requests[add(batcher, prompt, sampling, STOP, stream, keeper)] = (before, prompt, sampling, stream, keeper)
        elif action == "cancel" and requests.keys() - ended:
            id = random_.choice(sorted(requests.keys() - ended))
            batcher.cancel(id)
            check(id, cancelled=True)
        else:
            for _ in range(20 if action == "steps" else 1):
                step()
    while not batcher.idle:
        step()
    assert ended == requests.keys() and batcher._cache.memories == []


def test_a_prompt_is_read_for_each_memory_by_itself() -> None:
    """Also where a request without one has the same."""
    model, sampling, histories = tiny_model(), Sampling(temperature=0, max_tokens=12), ([1, 2, 3], [], [9, 8, 7, 6], None)
    batcher = Batcher(model, 1)
    keepers = [None if history is None else Keeper(model, tokens=torch.tensor(history, dtype=torch.int64)) for history in histories]
    ids = [add(batcher, [4, 5], sampling, memory=keeper) for keeper in keepers]
    got = drain(batcher)
    replies = [[event.token for event in got[id]] for id in ids]
    assert replies == [alone(model, [*(history or []), 4, 5], sampling, (), 0) for history in histories]
    assert replies[0] != replies[2]


def test_a_row_goes_through_its_random_numbers_one_by_one() -> None:
    """All tokens are equally likely, so that each says which number it was chosen by."""
    model = tiny_model()
    model.lm_head.weight.zero_()
    batcher, sampling = Batcher(model, 2), Sampling(top_k=0, temperature=1.0, max_tokens=3 * BLOCK, seed=4)
    first = add(batcher, [1, 2], sampling, stream=1)
    batcher.step()
    add(batcher, [3], sampling)
    for id, row in drain(batcher, []).items():
        stream = Uniforms(4, int(id == first))
        numbers = torch.cat([stream.block() for _ in range(3)])[int(id == first) :]
        expected = (numbers * 61).long()
        assert (torch.tensor([event.token for event in row]) - expected).abs().max() <= 1  # a number may be at an edge
        assert len(set(expected.tolist())) > 40


def test_a_cancelled_row_is_free_for_the_next_step() -> None:
    batcher = Batcher(tiny_model(), 2)
    ids = [add(batcher, [1, 2, 3], Sampling(max_tokens=50), stream=i) for i in range(3)]
    assert {event.id for event in batcher.step()} == set(ids[:2])
    assert (batcher.active, len(batcher._waiting)) == (2, 1)
    batcher.cancel(ids[0])
    assert (batcher.active, len(batcher._waiting)) == (1, 1)
    assert {event.id for event in batcher.step()} == set(ids[1:])
    batcher.cancel(ids[0])  # once more, and one that never was
    batcher.cancel(99)
    batcher.cancel(ids[1])
    batcher.cancel(ids[2])
    assert batcher.idle and batcher.step() == []


def test_a_waiting_request_can_be_cancelled() -> None:
    batcher = Batcher(tiny_model(), 1, prefill_chunk=4)
    first, second = add(batcher, [1] * 20, Sampling(max_tokens=3)), add(batcher, [2] * 20, Sampling(max_tokens=3))
    batcher.step()  # the first is being read
    batcher.cancel(first)
    got = drain(batcher)
    assert list(got) == [second] and len(got[second]) == 3


def test_one_row_of_a_request_can_be_cancelled_wherever_it_is() -> None:
    batcher, request = Batcher(tiny_model(), 2), ReplyRequest([1, 2, 3], Sampling(temperature=0, max_tokens=3), rows=4)
    batcher.add(request)
    batcher.step()
    batcher.cancel(request.id, 0)  # active
    batcher.cancel(request.id, 3)  # waiting
    got = drain(batcher)
    assert list(got) == [request.id] and {event.row for event in got[request.id]} == {1, 2}
    with pytest.raises(ValueError, match="invalid rows 2: expected at least 1, and 1 with a session"):
        ReplyRequest([1], Sampling(), rows=2, session="a")


def test_samples_of_a_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    read: list[int] = []
    layers = model.layers
    monkeypatch.setattr(model, "layers", lambda embedded, *rest: read.append(embedded.x.shape[1]) or layers(embedded, *rest))
    batcher = Batcher(model, 2)
    request = ReplyRequest(list(range(30)), Sampling(max_tokens=4, seed=1), rows=5)  # more than there is room for
    replies = batcher.complete([request])[request.id]
    assert read == [30]
    assert replies == Engine(model).generate([request.prompt], request.sampling, samples=5)


def test_a_long_prompt_does_not_stall_the_others() -> None:
    batcher = Batcher(tiny_model(max_seq_len=256), 2, prefill_chunk=16)
    first = add(batcher, [1, 2, 3], Sampling(max_tokens=40))
    batcher.step()
    second = add(batcher, list(range(60)) * 3, Sampling(max_tokens=2))
    steps = [{event.id for event in batcher.step()} for _ in range(12)]
    assert all(first in ids for ids in steps)
    assert [second in ids for ids in steps] == [False] * 11 + [True]  # 180 tokens are 12 chunks of 16


def test_memory_of_a_long_row_is_given_back() -> None:
    batcher = Batcher(tiny_model(), 2)
    add(batcher, [1] * 4 * FIRST_CAPACITY, Sampling(max_tokens=2))
    short = add(batcher, [2] * 3, Sampling(temperature=0, max_tokens=20))
    rows = drain(batcher)
    assert batcher._cache.keys[0].shape[2] == FIRST_CAPACITY
    assert [event.token for event in rows[short]] == alone(tiny_model(), [2] * 3, Sampling(temperature=0, max_tokens=20), (), 0)


@pytest.mark.parametrize("prompt", [[], [61], [-1, 3]])
def test_prompts_that_are_none_are_refused(prompt: list[int]) -> None:
    batcher = Batcher(tiny_model(), 2)
    with pytest.raises(ValueError, match="prompt|vocabulary"):
        add(batcher, prompt, Sampling())
    assert batcher.idle


@pytest.mark.parametrize(("max_rows", "chunk"), [(0, 1), (1, 0)])
def test_settings_that_cannot_be_are_refused(max_rows: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(tiny_model(), max_rows, prefill_chunk=chunk)


def test_bf16_rows_come_and_go_too() -> None:
    """The cache of a CPU is laid out otherwise in bf16: all slots are read, and it grows step by step."""
    model = tiny_model(dtype=torch.bfloat16, max_seq_len=256).bfloat16()
    batcher, events = Batcher(model, 4), []
    prompts = {}
    for length in (3, 60, 130, 200, 9, 64):
        prompt = [length % 61] * length
        prompts[add(batcher, prompt, Sampling(temperature=0, max_tokens=70))] = prompt
        events += batcher.step()
    for id, row in drain(batcher, events).items():
        tokens = [event.token for event in row]
        prompt = prompts[id]
        logits = full_logits(model, prompt + tokens)[len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert len(tokens) == 70 and (logits.amax(-1) - chosen).max() < 0.3  # as likely as the likeliest, but for rounding
