"""A step that is recorded and repeated decodes what the ordinary one does, whatever its rows are."""

from __future__ import annotations

import random

import pytest
import torch

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.infer.step_graphs import StepGraphs, capture_for
from tests.helpers.recorded import Graphs
from tests.helpers.tiny_model import tiny_model
from tests.nanochat.infer.test_continuous_batching import SAMPLINGS, STOP, a_request, add, alone, drain
from tests.nanochat.infer.test_memory_kv_cache import Keeper, Shifted


@pytest.mark.parametrize(
    ("dtype", "shape", "lengths"),
    [
        (torch.float32, {}, [9, 9, 9]),
        (torch.float32, {"window_pattern": "SL", "kv_heads": 1}, [9, 2, 5]),
        (torch.bfloat16, {"window_pattern": "SL"}, [4, 9, 1]),
    ],
    ids=["even", "ragged", "bf16"],
)
def test_recorded_steps_equal_ordinary_ones(dtype, shape: dict, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=dtype, **shape)
    tokens = torch.randint(61, (3, 99), generator=torch.Generator().manual_seed(1))
    plain = KVCache(model, 3, capacity=1)
    graphs = Graphs(monkeypatch)
    cache = KVCache(model, 3, capacity=1)
    tolerance = {"rtol": 0, "atol": 2e-5 if dtype == torch.float32 else 0.15}
    for each in (plain, cache):
        each.append(tokens[:, :9], lengths)
    for t in range(9, 75):  # past the first capacity and several windows
        count = 3 if t == 30 else 1  # several tokens at once go past the graph
        mine, expected = (each.append(tokens[:, t : t + count]) for each in (cache, plain))
        torch.testing.assert_close(mine, expected, **tolerance)
        assert cache.lengths == plain.lengths
    assert graphs.recorded == 2 and graphs.replayed > 55  # one for each capacity


def test_rows_come_and_go_and_sample_as_they_do_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, random_ = tiny_model(window_pattern="SL", depth=2), random.Random(3)
    requests = [a_request(random_) for _ in range(9)]
    expected = [alone(model, prompt, sampling, STOP, stream) for prompt, sampling, stream in requests]
    graphs = Graphs(monkeypatch)
    batcher, events, ids = Batcher(model, 5, prefill_chunk=16), [], []
    for prompt, sampling, stream in requests:
        ids.append(add(batcher, prompt, sampling, STOP, stream))
        events += [event for _ in range(6) for event in batcher.step()]
    got = drain(batcher, events)
    assert [[event.token for event in got[id]] for id in ids] == expected
    assert len({request[1].top_k for request in requests}) > 2 and len({len(tokens) for tokens in expected}) > 5
    assert graphs.replayed > 60 and graphs.recorded < 15


def test_rows_that_fill_up_a_graph_need_no_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long row has ended; its place is still in the graph, and short ones go on."""
    model, tokens = tiny_model(), torch.randint(61, (4, 60), generator=torch.Generator().manual_seed(1))
    plain, _, cache = KVCache(model, 4), Graphs(monkeypatch), KVCache(model, 4, capacity=64)
    for each in (plain, cache):
        each.append(tokens, [5, 3, 4, 60])
        each.remove(3)
    for t in range(12):
        mine, expected = (each.append(tokens[:3, t : t + 1]) for each in (cache, plain))
        torch.testing.assert_close(mine, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("settings", SAMPLINGS[:5:2])
def test_an_engine_replays_what_it_generates(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model(), [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    sampling = Sampling(**settings, max_tokens=40)
    expected = Engine(model).generate(prompts, sampling, STOP, samples=2)
    graphs = Graphs(monkeypatch)
    assert Engine(model).generate(prompts, sampling, STOP, samples=2) == expected
    assert graphs.replayed > 20


def test_memories_behind_rows_see_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their states must be their own: the next replay overwrites the graph's."""
    model = tiny_model(window_pattern="SL")
    plain_memories, memories = ([Shifted(model), None, Keeper(model, every=5)] for _ in range(2))
    plain = MemoryKVCache(model, plain_memories)
    graphs = Graphs(monkeypatch)
    cache = MemoryKVCache(model, memories)
    for step in range(40):
        tokens = torch.randint(61, (3, 1 if step else 6), generator=torch.Generator().manual_seed(step))
        counts = None if step else [6, 2, 4]
        torch.testing.assert_close(cache.append(tokens, counts), plain.append(tokens, counts), rtol=0, atol=5e-5)
    torch.testing.assert_close(torch.stack(memories[0].states), torch.stack(plain_memories[0].states), rtol=0, atol=5e-5)
    assert graphs.replayed > 30


def test_few_graphs_serve_all_numbers_of_rows() -> None:
    captured = []

    def capture(step):
        captured.append(step)
        return step

    graphs = StepGraphs(capture, 12)
    assert [graphs.rows(rows) for rows in (1, 2, 3, 5, 8, 9, 12)] == [1, 2, 4, 8, 8, 12, 12]
    for rows in (4, 4, 4, 8, 4):
        assert graphs(lambda n: (torch.full((n,), n),), rows)[0].tolist() == [rows] * rows
    assert len(captured) == 1, "the first step of a shape is not captured"
    graphs.forget()
    graphs(lambda n: (), 4)
    assert len(captured) == 1


def test_a_cpu_captures_nothing() -> None:
    assert capture_for(torch.device("cpu")) is None
