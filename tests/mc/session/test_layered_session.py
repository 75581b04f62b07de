"""Sessions in keys and values: what a plain model and a row-wise computation would give, legal and bounded at any length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import mc.session.allocator
import mc.session.layered_context
from mc.layout.layout import check, from_levels, widths
from mc.memory_model import MemoryModel
from mc.nets.layered_read import read_behind
from mc.session.layered_session import LayeredSession
from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from tests.helpers.layered_memory import K, T, layered_memory, layered_session, session_config, some_tokens
from tests.helpers.recorded import Graphs

WIDE = session_config(400)


def assert_legal(s: LayeredSession) -> None:
    """The layout is legal, and its slots are the first ones, each used once."""
    s.flush()
    recent, spec = min(s.budget.recent, s.length), s.tree.spec
    check(s.context.layout, spec.geometry, end=s.length, max_entries=s.budget.most, recent=recent, max_lod=spec.max_lod)
    assert sorted(s.context.slot.tolist()) == list(range(len(s.context)))


def assert_content(s: LayeredSession, tokens: torch.Tensor) -> None:
    """Each slot holds what its entry stands for. The first layer's keys and values depend on no context; its gists are means."""
    model, (lod, start), width = s.memory.model, s.context.tiling, s.width
    plain = read_behind(model, model.embed(tokens[None]), model.rotary(0, len(tokens)), None, 1)
    keys, values, bias = (part[0] for part in s.context.slots)
    assert not bias[:, width:].any()
    thinning = s.context.reach.thinning()  # of gists: as many tokens as a row has get their attention
    assert math.log(max(1.0, s.length / T)) - 0.2 < thinning <= math.log(max(1.0, s.length / T))
    for at, level, begin in zip(s.context.slot.tolist(), lod.tolist(), start.tolist(), strict=True):
        span = slice(begin, begin + K**level)
        torch.testing.assert_close(values[:, at], plain.values[0, :, span].mean(1), rtol=0, atol=0.02 if level else 1e-5)
        expected = math.log(K**level) - thinning * (level > 0)
        torch.testing.assert_close(bias[:, at], torch.full_like(bias[:, at], expected), rtol=0, atol=0.02)
        if level == 0 and s.length <= T:
            torch.testing.assert_close(keys[:, at], plain.keys[0, :, begin], rtol=0, atol=1e-5)


def fed(cache: KVCache, tokens: torch.Tensor, pieces: list[int]) -> list[torch.Tensor]:
    """Hidden states after each piece of tokens [n]."""
    return [cache.append(piece[None]).clone()[0] for piece in tokens.split(pieces)]


@pytest.mark.parametrize("model", [{}, {"kv_heads": 1, "head_dim": 8, "aspect_ratio": 16}])
@torch.no_grad()
def test_a_short_history_is_read_as_without_a_memory(model: dict) -> None:
    memory, tokens, pieces = layered_memory(**model), some_tokens(120), [37, *[1] * 30, 20, *[1] * 33]
    s = layered_session(memory, WIDE)
    got = fed(MemoryKVCache(memory.model, [s]), tokens, pieces)
    expected = fed(KVCache(memory.model, 1), tokens, pieces)
    torch.testing.assert_close(torch.stack(got), torch.stack(expected), rtol=0, atol=5e-5)
    assert s.figures.refocuses > 7 and not s.context.tiling.lod.any()


def collapsed(s: LayeredSession, blocks: list[int]) -> None:
    """Makes gists of raw blocks, which no refocus expands again."""
    s.allocator.plan = lambda *_: []
    tiling = s.context.tiling
    s.context.change(*s.allocator.editor.collapsed(tiling, tiling.start.searchsorted(np.array(blocks) * K)))


def test_a_slot_that_is_free_again_has_no_bias() -> None:
    memory = layered_memory()
    s = layered_session(memory, WIDE)
    s.append(some_tokens(100))
    collapsed(s, [9])
    collapsed(s, [0, 1, 2, 3])
    assert_content(s, some_tokens(100))


@pytest.mark.parametrize(("slots", "trained"), [(1, False), (1, True), (2, True)])
@torch.no_grad()
def test_gists_predict_as_in_training(slots: int, trained: bool) -> None:
    """Tokens after a Working Context whose keys are those of the plain row; gists are rounded to bf16 in the tree."""
    memory, tokens = layered_memory(slots=slots, trained=trained), some_tokens(T)
    tail = memory.plan.tail
    s = layered_session(memory, WIDE)
    s.append(tokens[:-tail])
    gone = [0, 1, 4, 6, 7, 9]
    collapsed(s, gone)
    hidden = torch.stack(fed(MemoryKVCache(memory.model, [s]), tokens[-tail:], [1] * tail))
    levels = torch.zeros(1, memory.plan.blocks, dtype=torch.int64)
    levels[0, gone] = 1
    plain = memory.forward_plain(tokens[None])
    layout = from_levels(levels, T, int(widths(levels, T, memory.config.geometry)[0]), memory.config.geometry)
    expected = memory.forward_layouts(memory.build_bank(plain), layout).hidden[0]
    gap = (expected - plain.hidden[0, -tail:]).abs().mean()
    assert (hidden - expected).abs().mean() < 0.03 * gap


@torch.no_grad()
def test_pieces_are_read_as_single_tokens_are() -> None:
    memory, tokens = layered_memory(), some_tokens(110)
    one, many = layered_session(memory, WIDE), layered_session(memory, WIDE)
    fed(MemoryKVCache(memory.model, [one]), tokens, [1] * 110)
    fed(MemoryKVCache(memory.model, [many]), tokens, [50, 7, 53])
    for s in (one, many):
        s.flush()
    for level in (1, 2):
        nodes = torch.arange(one.tree.nodes(level))
        torch.testing.assert_close(many.tree.gists(level, nodes), one.tree.gists(level, nodes), rtol=0, atol=0.02)
    order = [torch.from_numpy(s.context.slot) for s in (one, many)]
    for mine, theirs in zip(one.context.slots[:2], many.context.slots[:2], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a[:, order[0]], b[:, order[1]], rtol=0, atol=5e-5)


@pytest.mark.parametrize("interval", [1, 5, 8])
@torch.no_grad()
def test_three_times_the_trained_length_stays_in_budget(interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mc.session.allocator, "MARGIN", 0.0)  # a model with random weights looks everywhere
    memory = layered_memory()
    s = layered_session(memory, session_config(interval=interval))
    cache = MemoryKVCache(memory.model, [s])
    cache.append(some_tokens(90)[None])
    expected = None
    for token in some_tokens(3 * T, 1):
        if not s._noted:  # what the Working Context says, computed anew
            expected = s.context.read(s.length, token[None]).hidden
        hidden = cache.append(token[None, None])
        assert hidden.isfinite().all() and len(s.context) <= s.budget.most
        if expected is not None:
            torch.testing.assert_close(hidden[0], expected, rtol=0, atol=2e-4)
            expected = None
        if s.length % 13 == 0:
            assert_legal(s)
            cache._refresh(0)
    assert s.figures.edits > 10 and s.context.tiling.lod.max() == 2
    nodes = s.context.nodes(s.context.tiling)
    distance = s.length - nodes - s.context.reach.shift(nodes)
    assert distance.max() <= T < s.length  # as the model sees it


@pytest.mark.parametrize("interval", [3, 8])
@torch.no_grad()
def test_every_slot_holds_its_entry(interval: int) -> None:
    """While the focus jumps at random, between levels too."""
    memory, tokens, random = layered_memory(), some_tokens(600), np.random.default_rng(0)
    config = session_config(interval=interval)
    s = layered_session(memory, config, score=lambda s: random.uniform(-1, 1, len(s.context)).astype(np.float32))
    cache = MemoryKVCache(memory.model, [s])
    widths_seen = set()
    for piece in tokens.split([100, *[1] * 120, 60, *[1] * 320]):
        cache.append(piece[None])
        if not s._noted:
            assert_content(s, tokens[: s.length])
            widths_seen.add(len(s.context))
    assert len(widths_seen) > 5 and s.figures.edits > 50


@torch.no_grad()
def test_a_pool_that_is_much_smaller_than_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mc.session.layered_context, "POOL_TOKENS", 40)
    s, tokens = layered_session(layered_memory(), session_config(interval=3)), some_tokens(900)
    cache = MemoryKVCache(s.memory.model, [s])
    for piece in tokens.split([500, *[1] * 100, 200, *[1] * 100]):
        cache.append(piece[None])
        if not s._noted:
            assert_content(s, tokens[: s.length])
    assert s.length == 900


@torch.no_grad()
def test_gists_of_a_history_that_grew_in_small_steps_are_those_of_the_tree() -> None:
    """Many small turns of keys and changes of biases would add up to something else, in bf16 soon."""
    memory = layered_memory(dtype=torch.bfloat16, max_seq_len=64)
    s = layered_session(memory, session_config())
    cache = MemoryKVCache(memory.model, [s])
    for piece in some_tokens(64 * 128).split(K):
        cache.append(piece[None])
    (lod, start), slots, far = s.context.tiling, s.context.slots, 0
    assert s.context.reach.thinning() > math.log(128) - 0.3
    for level in np.unique(lod[lod > 0]).tolist():
        at = np.flatnonzero(lod == level)
        keys, values, bias = s.context.gists(level, start[at] // K**level)
        far += len(at)
        for layer in range(memory.model.config.depth):
            mine = (part[layer][:, s.context.slot[at]] for part in slots)
            for got, expected in zip(mine, (keys[layer], values[layer], bias[layer]), strict=True):
                assert torch.equal(got, expected.to(got.dtype))
    assert far > 20


def replies(memory: MemoryModel, rows: list[int], backed: list[bool]) -> list:
    sessions = [layered_session(memory, session_config()) if wanted else None for wanted in backed]
    prompts = [some_tokens(n, seed).tolist() for seed, n in enumerate((150, 20, 90))]
    engine = Engine(memory.model, open_context=lambda count, tokens: MemoryKVCache(memory.model, sessions))
    return engine.generate([prompts[row] for row in rows], Sampling(temperature=0, max_tokens=60))


@pytest.mark.parametrize("model", [{}, {"window_pattern": "SL"}])
def test_sessions_and_plain_rows_share_a_cache(model: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = layered_memory(**model)
    together = replies(memory, [0, 1, 2], [True, False, True])
    assert together == [replies(memory, [row], [wanted])[0] for row, wanted in enumerate((True, False, True))]
    graphs = Graphs(monkeypatch)
    assert replies(memory, [0, 1, 2], [True, False, True]) == together
    assert graphs.replayed > 50


@pytest.mark.parametrize("recorded", [False, True])
def test_rows_with_a_memory_come_go_and_move(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = layered_memory()
    s, alone = (layered_session(memory, session_config()) for _ in range(2))
    single = MemoryKVCache(memory.model, [alone])
    if recorded:
        Graphs(monkeypatch)
    cache = MemoryKVCache(memory.model, [], max_rows=4)
    prompt = some_tokens(90)
    for tokens, row_memory in ((some_tokens(3), None), (prompt, s), (some_tokens(2), None)):
        newcomer = MemoryKVCache(memory.model, [row_memory])
        newcomer.append(tokens[None])
        cache.admit(newcomer)
    single.append(prompt[None])
    with pytest.raises(ValueError, match="fork the session"):
        cache.select([1, 1])
    cache.remove(0)
    assert cache.memories == [None, s]
    for token in some_tokens(300, 5):
        hidden, expected = cache.append(token.expand(2, 1)), single.append(token[None, None])
        torch.testing.assert_close(hidden[1], expected[0], rtol=0, atol=2e-4)
    cache.remove(1)
    other = layered_session(memory, session_config())
    newcomer = MemoryKVCache(memory.model, [other])
    newcomer.append(some_tokens(200, 7)[None])
    cache.admit(newcomer)  # to where the other one was
    twin = MemoryKVCache(memory.model, [layered_session(memory, session_config())])
    twin.append(some_tokens(200, 7)[None])
    hidden, expected = cache.append(torch.tensor([[5], [5]])), twin.append(torch.tensor([[5]]))
    torch.testing.assert_close(hidden[1], expected[0], rtol=0, atol=2e-4)
    s.append(some_tokens(20))
    alone.append(some_tokens(20))
    history = torch.cat([prompt, some_tokens(300, 5), some_tokens(20)])
    assert s.focused() == alone.focused()
    assert_legal(s)
    for session, tokens in ((s, history), (other, torch.cat([some_tokens(200, 7), torch.tensor([5])]))):
        session.flush()
        assert_content(session, tokens)
