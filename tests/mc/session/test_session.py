"""A session's tree, Working Context and focus: what training would make of the same tokens, legal at every step, and never too wide."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.config import AllocatorConfig, SessionConfig
from mc.layout.layout import check
from mc.nets.gist_bank import BankShape, bank_child_keys, build
from mc.nets.lensnet import bank_keys
from mc.session.base_session import session_spec
from mc.session.budget import least_entries, session_budget
from mc.session.session import MCSession
from mc.session.tree import RamTree
from mc.train.controller import MCController
from nanochat.common import UserError, read_json, write_json
from nanochat.infer.engine import Engine
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from tests.helpers.layouts import to_levels
from tests.helpers.tiny_memory import tiny_memory

CONFIG = SessionConfig(mc_session_lod=3, mc_infer_refocus_interval=8)
EAGER = SessionConfig(
    mc_session_lod=3,
    mc_infer_refocus_interval=8,
    allocator=AllocatorConfig(allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0, allocator_iterations=2),
)


def memory(seed: int = 0, **options) -> MCController:
    return tiny_memory(seed, **options).requires_grad_(False).eval()


def session(controller: MCController, config: SessionConfig = CONFIG, **options) -> MCSession:
    return MCSession(controller, RamTree(session_spec(controller, config)), config, **options)


def random_tokens(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed))


def read_in_pieces(controller: MCController, tokens: torch.Tensor) -> MCSession:
    """A session that has read 700 `tokens` a piece at a time, with the focus moving all the while."""
    s = session(controller, EAGER)
    for piece in tokens.split([100, 3, 97, 1, 1, 300, 198]):
        s.append(piece)
        assert_legal(s)
    return s


def assert_legal(s: MCSession) -> None:
    geometry = s.tree.spec.geometry
    layout, entries, _ = s.read()
    check(layout, geometry, end=s.length, max_entries=s.budget.most, recent=min(s.budget.recent, s.length), max_lod=s.tree.spec.max_lod)
    assert entries.x.shape[1] == entries.values.shape[1] == len(s.context)


GISTS = [
    {},
    {"gistnet_pooling": "query", "gist_slots": 2},
    {"gistnet_type": "mean", "gist_slots": 4},
    {"gistnet_type": "context"},
]


@pytest.mark.parametrize("gist", GISTS[:3])
@pytest.mark.parametrize("pieces", [[600], [1] * 40 + [560], [7, 93, 8, 200, 292]])
@torch.no_grad()
def test_gists_are_those_that_training_would_make(gist: dict, pieces: list[int]) -> None:
    controller, tokens = memory(gist=gist), random_tokens(600)
    s = session(controller)
    for piece in tokens.split(pieces):
        s.append(piece)
    geometry = controller.config.geometry
    shape = BankShape(600, 600, geometry, 3)
    row = build(controller.model.embed(tokens[None]), controller.gistnet, shape)
    begin = 600
    assert torch.equal(s.tree.tokens(0, 600), tokens) and s.length == 600
    for level, nodes in enumerate(shape.levels[1:], 1):
        assert s.tree.nodes(level) == nodes > 0
        expected = row.x[0, begin : begin + nodes * geometry.slots].view(nodes, geometry.slots, -1)
        torch.testing.assert_close(s.tree.gists(level, torch.arange(nodes)), expected, rtol=0, atol=1e-5)
        begin += nodes * geometry.slots


@pytest.mark.parametrize("gist", GISTS)
@torch.no_grad()
def test_entries_are_those_that_training_would_gather(gist: dict) -> None:
    """Value embeddings and raw tokens too, whatever became of their blocks meanwhile."""
    controller, tokens = memory(gist=gist), random_tokens(700)
    s = read_in_pieces(controller, tokens)
    geometry, model = controller.config.geometry, controller.model
    layout, entries, _ = s.read()
    embedded = model.embed(tokens[None])
    assert s.figures.edits > 0 and len(layout.lod.unique()) > 2
    for lod, start, x, values in zip(*(part[0] for part in layout), entries.x[0], entries.values[0], strict=True):
        stride = geometry.stride(int(lod))
        mean = embedded.values[0, start : start + stride].mean(0)
        torch.testing.assert_close(values, mean, rtol=0, atol=1e-5)
        if lod == 0:
            torch.testing.assert_close(x, embedded.x[0, start], rtol=0, atol=1e-5)
        else:
            node, slot = divmod(int(start) // stride, geometry.slots)
            torch.testing.assert_close(x, s.tree.gists(int(lod), torch.tensor([node]))[0, slot], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gist", GISTS[:3])
@torch.no_grad()
def test_lensnet_looks_below_entries_as_in_training(gist: dict) -> None:
    controller, tokens = memory(gist=gist), random_tokens(700)
    s = read_in_pieces(controller, tokens)
    geometry, layout, lensnet = controller.config.geometry, s.context.layout, controller.focus.lensnet
    assert {0, 1, 2} <= set(layout.lod.unique().tolist())
    shape = BankShape(700, 696, geometry, s.tree.spec.max_lod)
    tree, levels = build(controller.model.embed(tokens[None]), controller.gistnet, shape), to_levels(layout, 87, geometry)
    expected = bank_child_keys(bank_keys(lensnet, tree), shape, levels, layout, 700, lensnet.newest)
    got = s._child_keys(s.context.tiling, s.context.x, lensnet.newest)
    kept = expected.entry[0] < len(s.context)
    order = got.entry[0].argsort(stable=True)
    assert torch.equal(got.entry[0, order], expected.entry[0, kept])
    torch.testing.assert_close(got.keys[0, order], expected.keys[0, kept], rtol=0, atol=1e-5)
    scores = lensnet(s.context.x[None], layout, 700, expected)[0].numpy()
    assert s.scores() == pytest.approx(scores, abs=1e-4) and scores.std() > 1e-3


@pytest.mark.parametrize("model", [{}, {"window_pattern": "SL", "kv_heads": 1, "head_dim": 8}])
@pytest.mark.parametrize("kind", ["gaussian", "local"])
@pytest.mark.parametrize("gist", [{}, {"gistnet_type": "context"}])
@torch.no_grad()
def test_a_short_history_is_read_as_without_a_memory(gist: dict, kind: str, model: dict) -> None:
    controller = memory(gist=gist, model=model, positional_type=kind)
    config = dataclasses.replace(CONFIG, allocator=AllocatorConfig(allocator_soft_max_length=300))
    prompt, greedy = random_tokens(100).tolist(), Sampling(temperature=0, max_tokens=150)
    s = session(controller, config)
    with_memory = Engine(controller.model, open_context=lambda rows, tokens: MemoryKVCache(controller.model, [s]))
    assert with_memory.generate([prompt], greedy) == Engine(controller.model).generate([prompt], greedy)
    assert s.length == 249 and s.figures.refocuses > 15  # the last token is never appended


@pytest.mark.parametrize("kind", ["gaussian", "simple", "local"])
@pytest.mark.parametrize("gist", GISTS)
@torch.no_grad()
def test_a_cache_that_is_kept_says_what_the_whole_working_context_says(gist: dict, kind: str) -> None:
    controller = memory(gist=gist, positional_type=kind)
    s = session(controller, EAGER)
    cache, tokens = MemoryKVCache(controller.model, [s]), random_tokens(400)
    rewritten = []
    whole = cache._reprefill
    cache._reprefill = lambda row, begin: (rewritten.append(begin), whole(row, begin))
    for piece in tokens.split([130, *[1] * 70, 40, *[1] * 160]):
        hidden = cache.append(piece[None])[0]
        if s.length % 7 == 0:
            _, entries, rotary = s.read()
            torch.testing.assert_close(hidden, controller.model.backbone(entries, rotary)[0, -1], rtol=0, atol=5e-5)
            assert cache.lengths == [entries.x.shape[1]] and len(s.context) <= s.budget.most
    assert s.length == 400 and max(rewritten) > 0  # keys of entries that stayed were kept


@torch.no_grad()
def test_sessions_and_plain_rows_share_a_cache() -> None:
    controller = memory()
    prompts = [random_tokens(n, seed).tolist() for seed, n in enumerate((150, 20, 90))]
    greedy = Sampling(temperature=0, max_tokens=60)

    def replies(rows: list[int], with_memory: list[bool]) -> list:
        sessions = [session(controller, EAGER) if wanted else None for wanted in with_memory]
        engine = Engine(controller.model, open_context=lambda count, tokens: MemoryKVCache(controller.model, sessions))
        return engine.generate([prompts[row] for row in rows], greedy)

    together = replies([0, 1, 2], [True, False, True])
    alone = [replies([row], [wanted])[0] for row, wanted in enumerate((True, False, True))]
    assert together == alone
    assert together[1] == Engine(controller.model).generate([prompts[1]], greedy)[0]


def test_rows_with_a_memory_come_go_and_move_but_are_not_doubled() -> None:
    controller = memory()
    s, cache = session(controller), MemoryKVCache(controller.model, [], max_rows=4)
    for prompt, row_memory in (([1, 2, 3], None), (random_tokens(90).tolist(), s), ([4, 5], None)):
        newcomer = MemoryKVCache(controller.model, [row_memory])
        newcomer.append(torch.tensor([prompt]))
        cache.admit(newcomer)
    with pytest.raises(ValueError, match="fork the session"):
        cache.select([1, 1])
    cache.remove(0)
    assert cache.memories == [None, s] and cache.select([1]).memories == [s]
    plain = KVCache(controller.model, 1)
    plain.append(torch.tensor([[4, 5]]))
    for token in range(40):
        hidden, expected = cache.append(torch.tensor([[token], [token]])), plain.append(torch.tensor([[token]]))
        torch.testing.assert_close(hidden[0], expected[0], rtol=0, atol=5e-5)
    _, entries, rotary = s.read()
    with torch.no_grad():
        torch.testing.assert_close(hidden[1], controller.model.backbone(entries, rotary)[0, -1], rtol=0, atol=5e-5)
    assert s.length == 130 and s.tree.tokens(90, 130).tolist() == list(range(40))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=8),
    st.sampled_from([8, 5, 32]),
    st.sampled_from(["greedy", "stochastic_greedy"]),
    st.integers(0, 3),
)
def test_every_working_context_is_legal(pieces: list[int], interval: int, kind: str, seed: int) -> None:
    allocator = AllocatorConfig(kind, allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0, allocator_iterations=3)
    s = session(memory(seed % 2), SessionConfig("ram", 3, interval, allocator))
    s.allocator.seed = seed
    for number, piece in enumerate(pieces):
        if number % 2:
            s.append(random_tokens(piece, number))
        else:
            s.extend(random_tokens(piece, number))
        assert_legal(s)
    assert s.length == sum(pieces)


# Hidden states of an incomplete block are not kept: they are made anew, behind the Working Context of then.
@pytest.mark.parametrize(("gist", "length"), [({}, 333), ({"gistnet_type": "context"}, 336)])
def test_a_session_goes_on_where_it_was_saved(gist: dict, length: int, tmp_path: Path) -> None:
    controller, file = memory(gist=gist), tmp_path / "focus.json"
    first = session(controller, EAGER, file=file)
    first.append(random_tokens(length))
    first.save()
    second = MCSession(controller, first.tree.copy(), EAGER, file=file)
    for s in (first, second):
        s.append(random_tokens(211, 1))
    for one, other in zip(first.read(), second.read(), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_history_is_laid_out_whatever_the_saved_focus_is(tmp_path: Path) -> None:
    controller, file = memory(), tmp_path / "focus.json"
    first = session(controller, EAGER, file=file)
    first.append(random_tokens(333))
    first.save()
    state = read_json(file)
    first.append(random_tokens(100, 1))
    shifted = {**state, "start": [0, *state["start"][:-1]]}
    too_wide = {**state, "lod": [0] * 500, "start": list(range(500))}
    for wrong in (state, shifted, too_wide, {}, [], {**state, "since": "x"}, {**state, "allocator": {}}, {**state, "lod": [[1]]}):
        write_json(file, wrong)
        other = MCSession(controller, first.tree.copy(), EAGER, file=file)
        assert other.length == 433
        assert_legal(other)
    file.write_text("{")
    with pytest.raises(UserError, match=r"focus.json is not readable JSON .*delete it"):
        MCSession(controller, first.tree.copy(), EAGER, file=file)


def test_long_histories_cost_no_more_entries() -> None:
    s = session(memory())
    s.append(random_tokens(5_000))
    assert_legal(s)
    assert s.tree.nodes(3) == 9 and 0.5 * s.budget.target < len(s.context) <= s.budget.target


def test_bad_values_are_refused_and_nothing_is_added() -> None:
    controller = memory()
    s = session(controller)
    s.append(random_tokens(50))
    for wrong in (torch.tensor([5, 61]), torch.tensor([-1]), torch.tensor([[1, 2]])):
        with pytest.raises(ValueError, match="from 0 to 60"):
            s.append(wrong)
    assert s.length == 50 and s.tree.length == 50
    narrow = SessionConfig(allocator=AllocatorConfig(allocator_soft_max_length=50))
    least = least_entries(controller.config.geometry, 4, controller.plan.recent) + 8
    with pytest.raises(ValueError, match=f"allocator_soft_max_length is 50.*up to {least} entries"):
        session_budget(controller, narrow)
    with pytest.raises(ValueError, match="invalid tree: it holds"):
        MCSession(controller, RamTree(session_spec(controller, CONFIG)), SessionConfig())
