"""Cache, sampling and streaming: what the engine says is what the model says without any of them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import ALIGNMENT, KVCache
from nanochat.infer.request import Completion
from nanochat.infer.sampling import BLOCK, Sampling, Settings, Uniforms, choose
from nanochat.model.gpt import GPT
from tests.helpers.tiny_model import full_logits, tiny_model

GREEDY = Sampling(temperature=0, max_tokens=40)
SHAPES = [
    {"window_pattern": pattern, "kv_heads": kv_heads, "depth": 4, "aspect_ratio": 8}
    for pattern, kv_heads in itertools.product(("L", "SL", "SSSL"), (0, 1))
]


def prompts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(61, (length,), generator=generator).tolist() for length in lengths]


def hidden_of(model: GPT, row: list[int]) -> torch.Tensor:
    tokens = torch.tensor([row])
    return model.backbone(model.embed(tokens), model.rotary(0, len(row)))[0, -1]


@pytest.mark.parametrize("backend", ["sdpa", "blocked"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['window_pattern']}-{s['kv_heads'] or 'all'}")
def test_token_by_token_equals_the_full_forward(shape: dict, backend: str) -> None:
    model = tiny_model(**shape)
    model.backend = backend
    (row,) = prompts_of(70)  # past the trained 24, the first capacity and several windows of 6
    expected = full_logits(model, row)
    cache = KVCache(model, 1, capacity=1)
    for t, token in enumerate(row):
        logits = model.logits(cache.append(torch.tensor([[token]])))[0]
        torch.testing.assert_close(logits, expected[t], rtol=0, atol=2e-5)


@pytest.mark.parametrize("backend", ["sdpa", "blocked"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['window_pattern']}-{s['kv_heads'] or 'all'}")
def test_ragged_rows_in_chunks_equal_the_full_forward(shape: dict, backend: str) -> None:
    model = tiny_model(**shape)
    model.backend = backend
    rows = prompts_of(70, 41, 55)
    taken = [0, 0, 0]
    cache = KVCache(model, 3)
    # Equal and unequal counts, none at all, single tokens and chunks longer than what a row takes of them.
    for counts in ([5, 5, 5], [9, 1, 4], [1, 1, 1], [1, 1, 1], [0, 3, 1], [1, 0, 1], [1, 1, 1], [20, 0, 7], [1, 1, 1], [1, 1, 1]):
        tokens = torch.zeros(3, max(counts), dtype=torch.int64)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            tokens[i, :count] = torch.tensor(row[taken[i] : taken[i] + count])
            taken[i] += count
        hidden = cache.append(tokens, counts)
        assert cache.lengths == taken
        for i, row in enumerate(rows):
            torch.testing.assert_close(hidden[i], hidden_of(model, row[: taken[i]]), rtol=0, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(
    pattern=st.sampled_from(["L", "SL", "SSL"]),
    kv_heads=st.sampled_from([0, 1, 2]),
    steps=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), min_size=1, max_size=9),
    chosen=st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_any_way_of_appending_gives_the_same_hidden_states(pattern: str, kv_heads: int, steps: list, chosen: list[int]) -> None:
    model = tiny_model(window_pattern=pattern, kv_heads=kv_heads)
    rows, taken = prompts_of(99, 99, 99), [0, 0, 0]
    cache = KVCache(model, 3, capacity=1)
    for counts in steps:
        tokens = torch.zeros(3, max(counts), dtype=torch.int64)
        for i, count in enumerate(counts):
            tokens[i, :count] = torch.tensor(rows[i][taken[i] : taken[i] + count])
            taken[i] += count
        cache.append(tokens, counts)
    copy = cache.select(chosen)
    hidden = copy.append(torch.tensor([[rows[i][taken[i]]] for i in chosen]))
    for i, state in zip(chosen, hidden, strict=True):
        torch.testing.assert_close(state, hidden_of(model, rows[i][: taken[i] + 1]), rtol=0, atol=2e-5)


def test_padding_holds_no_trap() -> None:
    """What a longer neighbour's padding leaves in a row's slots must never be seen."""
    model = tiny_model(window_pattern="SL")
    long, short = prompts_of(60, 3)
    alone = Engine(model).generate([short], GREEDY)
    beside = Engine(model).generate([short, long], GREEDY)
    assert beside[0] == alone[0]


def test_bf16_decodes_close_to_its_full_forward() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    (row,) = prompts_of(30)
    expected = full_logits(model, row)
    cache = KVCache(model, 1)
    cache.append(torch.tensor([row[:20]]))
    for t in range(20, 30):
        logits = model.logits(cache.append(torch.tensor([[row[t]]])))[0]
        assert (logits - expected[t]).abs().max() < 0.25
        assert logits.dtype == torch.float32


def test_cache_doubles_and_keeps_its_alignment() -> None:
    model = tiny_model()
    cache = KVCache(model, 2, capacity=3)
    sizes = []
    for _ in range(60):
        cache.append(torch.zeros(2, 5, dtype=torch.int64))
        sizes.append(cache.keys[0].shape[2])
    assert sorted(set(sizes)) == [ALIGNMENT, 2 * ALIGNMENT, 4 * ALIGNMENT, 8 * ALIGNMENT]


def test_decoding_takes_no_memory_that_grows_with_the_context() -> None:
    """The bytes that one more token allocates are the same at 20 tokens and at 1,000, in ragged batches too."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocated(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                    self.largest = max(self.largest, tensor.untyped_storage().nbytes())
            return out

    model = tiny_model(window_pattern="SL", max_seq_len=64, kv_heads=1)
    for counts in ([20, 20], [20, 17]):
        largest = []
        for more in (0, 980):
            cache = KVCache(model, 2, capacity=50 + more)
            model.rotary(0, 2048)
            cache.append(torch.zeros(2, 20 + more, dtype=torch.int64), [more + count for count in counts])
            cache.append(torch.zeros(2, 1, dtype=torch.int64))
            with Allocated() as allocated:
                cache.append(torch.zeros(2, 1, dtype=torch.int64))
            largest.append(allocated.largest)
        assert largest[0] == largest[1]


def test_ragged_rows_decode_across_a_doubling() -> None:
    model = tiny_model(window_pattern="SL")
    rows, lengths = prompts_of(80, 80), [ALIGNMENT - 3, 20]
    cache = KVCache(model, 2, capacity=1)
    cache.append(torch.tensor([row[: lengths[0]] for row in rows]), lengths)
    for t in range(8):
        hidden = cache.append(torch.tensor([[row[length + t]] for row, length in zip(rows, lengths, strict=True)]))
        for state, row, length in zip(hidden, rows, lengths, strict=True):
            torch.testing.assert_close(state, hidden_of(model, row[: length + t + 1]), rtol=0, atol=2e-5)


def test_compiled_layers_are_not_compiled_for_each_token() -> None:
    compiled = tiny_model().use_kernels(compiled=True, chunked_ce=True)
    torch._dynamo.utils.counters.clear()
    assert Engine(compiled).generate(prompts_of(5, 9), GREEDY) == Engine(tiny_model()).generate(prompts_of(5, 9), GREEDY)
    assert not torch._dynamo.utils.counters["frames"]


def test_greedy_is_the_argmax_of_the_full_forward() -> None:
    model = tiny_model(window_pattern="SSL")
    prompts = prompts_of(1, 30, 12)
    for prompt, completion in zip(prompts, Engine(model).generate(prompts, GREEDY), strict=True):
        likeliest = full_logits(model, prompt + completion.tokens)[len(prompt) - 1 : -1].argmax(-1)
        assert completion.tokens == likeliest.tolist()
        assert len(completion.tokens) == 40 and not completion.ended


@pytest.mark.parametrize("sampling", [Sampling(seed=3), Sampling(top_k=0, top_p=0.8, seed=3), Sampling(top_k=0, temperature=1.3)])
def test_same_seed_gives_the_same_samples_whatever_the_batch(sampling: Sampling) -> None:
    sampling.max_tokens = 70  # more than one block of random numbers
    engine, stop = Engine(tiny_model()), (5, 9, 17)
    prompts = prompts_of(4, 19, 11)
    together = engine.generate(prompts, sampling, stop, samples=3)
    apart = [completion for prompt in prompts for completion in engine.generate([prompt], sampling, stop, samples=3)]
    fewer = [completion for prompt in prompts for completion in engine.generate([prompt], sampling, stop, samples=2)]
    assert together == apart
    assert [completion for i, completion in enumerate(together) if i % 3 < 2] == fewer
    assert together[0] != together[1]
    other = Sampling(**{**vars(sampling), "seed": sampling.seed + 1})
    assert engine.generate(prompts, other, stop, samples=3) != together


def test_rows_end_at_their_stop_token_and_stay_silent() -> None:
    engine = Engine(tiny_model())
    prompts, stop, sampling = prompts_of(4, 19, 11, 8), {5, 9, 17}, Sampling(max_tokens=60, seed=1)
    steps = list(engine.stream(prompts, sampling, stop))
    for row, completion in enumerate(engine.generate(prompts, sampling, stop)):
        column = [step[row] for step in steps]
        tokens = list(itertools.takewhile(lambda token: token is not None, column))
        assert all(token is None for token in column[len(tokens) :])
        assert completion == Completion(tokens, [False] * len(tokens), tokens[-1] in stop)
        assert completion.said == tokens[: len(tokens) - completion.ended] and not stop & set(completion.said)
        assert completion.ended or len(tokens) == 60
    assert all(completion.ended for completion in engine.generate(prompts, sampling, stop))
    assert len(steps) < 60  # nothing is computed once all have ended


def test_stream_yields_before_it_computes_the_next() -> None:
    engine = Engine(tiny_model())
    context, hidden = engine.read(prompts_of(5))
    stream = engine.resume(context, hidden, GREEDY)
    for count in range(1, 4):
        next(stream)
        assert context.lengths == [5 + count - 1]


def test_long_prompts_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(window_pattern="SL")
    prompts = prompts_of(50, 7, 33)
    whole = Engine(model).generate(prompts, GREEDY)
    monkeypatch.setattr("nanochat.infer.engine.PREFILL_TOKENS", 24)
    assert Engine(model).generate(prompts, GREEDY) == whole


def test_another_context_can_take_the_place_of_the_cache() -> None:
    """The engine asks no more of a context than the protocol: here one that reads everything anew for each token."""

    class Rereading:
        def __init__(self, model: GPT, rows: list[list[int]]) -> None:
            self.model, self.history = model, rows

        @property
        def rows(self) -> int:
            return len(self.history)

        def append(self, tokens, counts=None):
            for row, new, count in zip(self.history, tokens.tolist(), counts or [tokens.shape[1]] * self.rows, strict=True):
                row += new[:count]
            return torch.stack([hidden_of(self.model, row) for row in self.history])

        def select(self, rows):
            return Rereading(self.model, [list(self.history[row]) for row in rows])

    model, prompts = tiny_model(window_pattern="SL"), prompts_of(4, 9)
    rereading = Engine(model, lambda rows, _: Rereading(model, [[] for _ in range(rows)]))
    sampling = Sampling(max_tokens=12)
    assert rereading.generate(prompts, sampling, (5,), samples=2) == Engine(model).generate(prompts, sampling, (5,), samples=2)


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []], [[61]], [[-1, 3]]])
def test_prompts_that_are_none_are_refused(prompts: list) -> None:
    with pytest.raises(ValueError, match="prompt|vocabulary"):
        Engine(tiny_model()).generate(prompts, GREEDY)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}, {"seed": -1}],
)
def test_sampling_refuses_what_cannot_be(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def alike(rows: int, **settings) -> Settings:
    return Settings([Sampling(**settings)] * rows, torch.device("cpu"))


def kept(logits: torch.Tensor, **settings) -> torch.Tensor:
    """The distribution that is sampled from, found by going through the random numbers evenly."""
    n = 20_000
    tokens = choose(logits.expand(n, -1), (torch.arange(n) + 0.5) / n, alike(n, **settings))
    return torch.bincount(tokens, minlength=logits.shape[0]) / n


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 0}, {"top_k": 3}, {"top_k": 0, "top_p": 0.7}, {"top_k": 4, "top_p": 0.6}, {"top_k": 99}, {"top_k": 1}, {"top_p": 1e-9}],
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_truncated_softmax(settings: dict, temperature: float) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.2, 0.0, 1.9, -3.0, 0.9])
    p = (logits.double() / temperature).softmax(0)
    order = p.argsort(descending=True)
    top_k = settings.get("top_k", 50) or len(p)
    p[order[top_k:]] = 0
    p /= p.sum()
    total = 0.0
    for token in order.tolist():
        if total >= settings.get("top_p", 1.0):
            p[token] = 0
        total += p[token].item()
    torch.testing.assert_close(kept(logits, temperature=temperature, **settings).double(), p / p.sum(), rtol=0, atol=2e-4)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=9),
    u=st.floats(0, 1, exclude_max=True, width=32),
    temperature=st.sampled_from([1e-4, 0.7, 50.0]),
    top_k=st.integers(0, 9),
    top_p=st.sampled_from([1e-6, 0.5, 1.0]),
)
def test_a_choice_is_always_a_token_that_can_be(logits: list[float], u: float, temperature: float, top_k: int, top_p: float) -> None:
    row = torch.tensor([logits])
    (token,) = choose(row, torch.tensor([u]), alike(1, temperature=temperature, top_k=top_k, top_p=top_p)).tolist()
    assert 0 <= token < len(logits)
    assert ((row[0, token] - row.max()) / temperature).exp() > 0


def test_choices_at_the_edges() -> None:
    zero, below_one = torch.zeros(1), torch.full((1,), 1 - 2**-24)
    plain = alike(1, temperature=1, top_k=0)
    assert choose(torch.tensor([[-1e30, 0.0, -1e30]]), zero, plain).item() == 1  # not a token of probability zero
    assert choose(torch.tensor([[-1e30, 0.0, -1e30]]), below_one, plain).item() == 1
    half = alike(1, temperature=1, top_k=0, top_p=0.5)
    assert choose(torch.tensor([[0.0, 0.0]]), below_one, half).item() == choose(torch.tensor([[0.0, 0.0]]), zero, half).item()


def test_uniforms_are_uniform_and_differ_between_streams() -> None:
    streams = [Uniforms(1, stream) for stream in range(8)]
    drawn = torch.stack([torch.cat([stream.block() for _ in range(1000 // BLOCK + 1)]) for stream in streams], dim=1)[:1000]
    assert drawn.min() >= 0 and drawn.max() < 1
    assert (drawn.mean(0) - 0.5).abs().max() < 0.05
    assert len(Counter(drawn.flatten().tolist())) > 7990
    assert not torch.equal(Uniforms(1 + (1 << 40)).block(), drawn[:BLOCK, 0])  # all bits of the seed count
