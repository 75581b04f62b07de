"""The Focus Allocator on layouts made by hand: what it samples, prefers, remembers and refuses."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from mc.config import AllocatorConfig
from mc.layout.layout import Geometry
from mc.layout.tiling import Edit, Tiling, extended, raw
from mc.session.allocator import BestAllocator, FocusAllocator, coarsest_width, count_blocks, swap_rate
from tests.helpers.tiny_memory import entries
from tests.helpers.tiny_tilings import as_tiling, assert_legal, rows


def test_draws_go_by_the_softmax_of_the_best() -> None:
    geometry, length = Geometry(4), 24
    tiling = as_tiling(entries([1, 1, 1, 1, 1], length, geometry))
    scores = np.array([0.9, 0.5, 0.7, 0.2, 0.6] + [0.0] * 4, dtype=np.float32)
    temperature, plans = 0.3, 3000
    config = AllocatorConfig(
        allocator_type="stochastic_greedy",
        allocator_max_replacements=1,
        allocator_sample_top_k=3,
        allocator_sample_temperature=temperature,
    )
    allocator = FocusAllocator(config, geometry, 2, 4, seed=5)
    seen = Counter(edit.start for _ in range(plans) for edit in allocator.plan(tiling, length, 12, scores))
    weights = {0: np.exp(0.9 / temperature), 8: np.exp(0.7 / temperature), 16: np.exp(0.6 / temperature)}
    assert seen.keys() == weights.keys()
    for start, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(seen[start] / plans - share) < 4 * (share * (1 - share) / plans) ** 0.5


def test_payers_are_drawn_too() -> None:
    geometry, length = Geometry(4), 24
    tiling = as_tiling(entries([1, 0, 0, 0, 0], length, geometry))
    scores = np.array([0.9] + [-0.8] * 4 + [-0.5] * 4 + [-0.6] * 4 + [-0.05] * 4 + [0.0] * 4, dtype=np.float32)
    config = AllocatorConfig(allocator_type="stochastic_greedy", allocator_max_replacements=1, allocator_sample_top_k=2)
    allocator = FocusAllocator(config, geometry, 2, 4)
    seen = Counter(allocator.plan(tiling, length, len(tiling.lod), scores)[0] for _ in range(300))
    assert seen.keys() == {
        Edit(False, 1, 4),
        Edit(False, 1, 12),
    }  # the third is not among the two worst, the fourth not below the threshold
    assert seen[Edit(False, 1, 4)] > seen[Edit(False, 1, 12)]


def test_seeds_draw_differently_and_so_do_successive_plans() -> None:
    geometry, length = Geometry(4), 44
    tiling = as_tiling(entries([1] * 10, length, geometry))
    scores = np.full(len(tiling.lod), 0.5, dtype=np.float32)
    config = AllocatorConfig(allocator_type="stochastic_greedy", allocator_max_replacements=1, allocator_sample_top_k=10)
    allocators = [FocusAllocator(config, geometry, 2, 4, seed) for seed in (1, 2)]
    drawn = [[a.plan(tiling, length, 17, scores)[0].start for _ in range(20)] for a in allocators]
    assert drawn[0] != drawn[1] and len(set(drawn[0])) > 3


def test_an_edit_may_be_undone_after_the_cooldown() -> None:
    geometry, length = Geometry(4), 20
    allocator = FocusAllocator(AllocatorConfig(), geometry, 1, 4)
    tiling = as_tiling(entries([1, 0, 1, 1], length, geometry))
    plans = []
    for _ in range(7):
        # What is expanded is not wanted any more, and the other way round.
        first = tiling.start.searchsorted([0, 4])
        scores = np.zeros(len(tiling.lod), dtype=np.float32)
        for entry, level in zip(first, tiling.lod[first], strict=True):
            scores[entry : entry + (1 if level else 4)] = 0.9 if level else -0.9
        edits = allocator.plan(tiling, length, len(tiling.lod), scores)
        plans.append(edits)
        tiling, _ = allocator.apply(tiling, edits)
        allocator.refocused()
    swap, back = [Edit(False, 1, 4), Edit(True, 1, 0)], [Edit(False, 1, 0), Edit(True, 1, 4)]
    assert plans == [swap, [], [], back, [], [], swap]


def test_what_was_expanded_of_late_is_collapsed_where_nothing_else_is_left() -> None:
    geometry, length = Geometry(4), 28
    allocator = FocusAllocator(AllocatorConfig(), geometry, 1, 4)
    tiling, _ = allocator.apply(as_tiling(entries([1, 0, 0, 1, 1, 1], length, geometry)), [Edit(True, 1, 0)])
    levels = {budget: allocator.fit(tiling, length, budget)[0].lod.tolist() for budget in (16, 13, 12, 10)}
    assert levels[16] == [0] * 4 + [1] + [0] * 4 + [1] * 3 + [0] * 4
    assert levels[13] == [0] * 4 + [1] * 5 + [0] * 4
    assert levels[12] == levels[10] == [1] * 6 + [0] * 4


def test_free_room_goes_to_the_best_whatever_its_score() -> None:
    geometry, length = Geometry(4), 20
    tiling = as_tiling(entries([1, 1, 1, 1], length, geometry))
    scores = np.array([-0.9, -0.2, -0.3, -0.2] + [0.0] * 4, dtype=np.float32)
    allocator = FocusAllocator(AllocatorConfig(), geometry, 1, 4)
    assert allocator.plan(tiling, length, 14, scores) == [Edit(True, 1, 12), Edit(True, 1, 4)]  # of equals the newest
    assert allocator.plan(tiling, length, 10, scores) == []
    one = FocusAllocator(AllocatorConfig(allocator_max_replacements=1), geometry, 1, 4)
    assert one.plan(tiling, length, 14, scores) == [Edit(True, 1, 12)]


def test_nodes_made_on_the_way_are_chosen_by_what_they_stand_for() -> None:
    allocator = FocusAllocator(AllocatorConfig(), Geometry(2), 2, 2)
    scores = np.repeat([0.5, -0.25, -0.5, 0.0, 0.25], [4, 4, 4, 4, 2]).astype(np.float32)
    after, source = allocator.fit(raw(0, 18), 18, 8, scores)
    assert rows(after) == [(1, 0), (1, 2), (2, 4), (2, 8), (1, 12), (1, 14), (0, 16), (0, 17)]
    assert source.tolist() == [-1] * 6 + [16, 17]


def test_many_blocks_do_not_pay_for_one_unless_it_is_worth_it() -> None:
    geometry, length = Geometry(4), 40
    allocator = FocusAllocator(AllocatorConfig(), geometry, 2, 4)
    tiling = as_tiling(entries([1] * 4 + [2] * 4 + [0], length, geometry))  # four gists, a gist of four, a raw block
    width = len(tiling.lod)
    scores = np.array([0.0, -0.01, -0.01, -0.01, 0.12] + [0.0] * 8, dtype=np.float32)
    assert allocator.plan(tiling, length, width, scores) == [Edit(False, 2, 0), Edit(True, 2, 16)]  # four blocks for four blocks
    other = as_tiling(entries([1] * 8 + [0], length, geometry))
    wanted = np.array([-0.01] * 4 + [0.12, 0.05, 0.05, 0.05] + [0.0] * 8, dtype=np.float32)
    assert allocator.plan(other, length, len(other.lod), wanted) == []  # e^1.2 is less than 4 · e^-0.1
    wanted[4] = 0.2
    assert allocator.plan(other, length, len(other.lod), wanted) == [Edit(False, 2, 0), Edit(True, 1, 16)]
    wanted[8:12] = -0.02
    wanted[4] = 0.12
    assert allocator.plan(other, length, len(other.lod), wanted)[0] == Edit(False, 1, 32)  # a block for a block


def test_scores_at_a_threshold_are_not_beyond_it() -> None:
    geometry, length = Geometry(4), 20
    tiling = as_tiling(entries([1, 0, 1, 1], length, geometry))
    allocator = FocusAllocator(AllocatorConfig(allocator_expand_threshold=0.1, allocator_collapse_threshold=0.1), geometry, 1, 4)
    for wanted, payer, edits in ((0.1, -0.5, 0), (0.5, -0.1, 0), (0.101, -0.101, 2)):
        scores = np.array([wanted] + [payer] * 4 + [0.0] * 6, dtype=np.float32)
        assert len(allocator.plan(tiling, length, len(tiling.lod), scores)) == edits


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_history_of_a_million_tokens_fits_at_once(slots: int) -> None:
    geometry, length = Geometry(32, slots), 1_000_017
    allocator = FocusAllocator(AllocatorConfig(), geometry, 4, 64)
    scores = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    tokens = raw(0, length)
    for given_scores in (None, scores):
        after, source = allocator.fit(tokens, length, 512, given_scores)
        assert_legal(after, allocator, length, 512)
        assert 512 - len(after.lod) < 32 * slots and source[-64:].tolist() == list(range(length - 64, length))
    blocks, _ = allocator.fit(tokens, length, 31_248 * slots + 81)
    assert np.bincount(blocks.lod).tolist() == [81, 31_248 * slots]
    assert rows(allocator.fit(blocks, length, 512)[0]) == rows(allocator.fit(tokens, length, 512)[0])


def test_focus_reaches_a_single_block_of_a_long_history() -> None:
    geometry, length, needle = Geometry(8), 40_000, 17_003
    allocator = FocusAllocator(AllocatorConfig(), geometry, 4, 32)
    tiling, _ = allocator.fit(raw(0, length), length, 160)
    for _ in range(5):
        ends = (tiling.start // 8**tiling.lod + 1) * 8**tiling.lod
        scores = np.where((tiling.start <= needle) & (needle < ends), 0.9, -0.3).astype(np.float32)
        tiling, _ = allocator.apply(tiling, allocator.plan(tiling, length, 160, scores))
        assert_legal(tiling, allocator, length, 160)
        allocator.refocused()
    assert tiling.lod[tiling.start.searchsorted(needle)] == 0 and needle in tiling.start


def test_state_is_restored_and_forgotten_after_the_cooldown() -> None:
    geometry, length = Geometry(4), 20
    allocator = FocusAllocator(AllocatorConfig(), geometry, 1, 4)
    allocator.apply(as_tiling(entries([1, 0, 1, 1], length, geometry)), [Edit(True, 1, 0)])
    allocator.refocused()
    state = json.loads(json.dumps(allocator.state()))
    assert state == {"refocuses": 1, "plans": 0, "edited": [[1, 0, 0]]}
    again = FocusAllocator(AllocatorConfig(), geometry, 1, 4)
    again.load_state(state)
    assert again.state() == state
    again.refocused()
    assert again.state()["edited"] == [[1, 0, 0]]
    again.refocused()
    assert again.state()["edited"] == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "expected refocuses, plans and edited"),
        ({"refocuses": 1, "plans": 2}, "expected refocuses, plans and edited"),
        ({"refocuses": -1, "plans": 2, "edited": []}, "expected the counts"),
        ({"refocuses": 1, "plans": 2.0, "edited": []}, "expected the counts"),
        ({"refocuses": 1, "plans": 2, "edited": 3}, "expected the counts"),
        ({"refocuses": 1, "plans": 2, "edited": [[1, 2]]}, r"\[1, 2\] is not \[level, start, refocus\]"),
        ({"refocuses": 1, "plans": 2, "edited": [[1, 0, 0], [0, 0, 0]]}, r"\[0, 0, 0\] is not"),
        ({"refocuses": 1, "plans": 2, "edited": [[1, 0, 2]]}, r"\[1, 0, 2\] is not"),
        ({"refocuses": 1, "plans": 2, "edited": [[1, 1 << 70, 0]]}, "is not"),
    ],
)
def test_a_state_that_is_none_is_refused_and_changes_nothing(state, message: str) -> None:
    allocator = FocusAllocator(AllocatorConfig(), Geometry(4), 1, 4)
    before = allocator.state()
    with pytest.raises(ValueError, match=message):
        allocator.load_state(state)
    assert allocator.state() == before


TILING = as_tiling(entries([1, 0, 1, 1], 20, Geometry(4)))
ZEROS = np.zeros(11, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.plan(TILING, 20, 10, ZEROS), "budget: 11 entries are over the 10 allowed"),
        (lambda a: a.plan(TILING, 20, 11, ZEROS[:10]), r"expected scores float32 \[11\], .*, got float32 \(10,\)"),
        (lambda a: a.plan(TILING, 20, 11, ZEROS.astype(np.float64)), r"expected scores float32 .* got float64 \(11,\)"),
        (lambda a: a.fit(TILING, 20, 11, ZEROS[None]), r"expected scores float32 .* got float32 \(1, 11\)"),
        (lambda a: a.plan(TILING, 20, 11, np.append(ZEROS[:10], np.float32("nan"))), "the score of entry 10 is nan"),
        (lambda a: a.fit(TILING, 20, 11, np.append(np.float32("-inf"), ZEROS[:10])), "the score of entry 0 is -inf"),
        (lambda a: a.plan(TILING, 21, 11, ZEROS), "contiguity: row 0 ends at token 20, not at 21"),
        (lambda a: a.fit(as_tiling(entries([1] * 5, 20, Geometry(4))), 20, 11), "recency: entry 4 of row 0"),
        (lambda a: a.fit(TILING, 20, 7), "mc_max_lod 1 and allocator_recent_tokens 4 leave at least 8 entries"),
        (lambda a: a.apply(TILING, [Edit(True, 1, 4)]), "invalid Edit.*: the node is not in the layout"),
    ],
)
def test_bad_values_are_refused_and_change_nothing(call, message: str) -> None:
    allocator = FocusAllocator(AllocatorConfig(), Geometry(4), 1, 4)
    before = allocator.state(), rows(TILING)
    with pytest.raises(ValueError, match=message):
        call(allocator)
    assert (allocator.state(), rows(TILING)) == before


@pytest.mark.parametrize("recent, width", [(0, 1), (4, 3 + 3 + 4), (8, 3 + 2 + 8), (200, 64)])
def test_the_narrowest_tiling(recent: int, width: int) -> None:
    assert coarsest_width(64, Geometry(4), 3, recent) == width
    assert coarsest_width(0, Geometry(4), 3, recent) == 0


def test_an_empty_history() -> None:
    allocator = FocusAllocator(AllocatorConfig(), Geometry(4), 2, 4)
    empty, none = raw(0, 0), np.zeros(0, dtype=np.float32)
    assert allocator.plan(empty, 0, 0, none) == []
    assert rows(allocator.fit(empty, 0, 0, none)[0]) == []


def test_blocks_and_the_share_of_them_that_is_edited() -> None:
    geometry = Geometry(4, 2)
    tiling = as_tiling(entries([2] * 4 + [1, 0, 1, 1], 34, geometry))
    assert count_blocks(tiling, geometry) == 6  # four nodes, a raw block and the incomplete one
    assert swap_rate([Edit(False, 1, 20), Edit(True, 1, 16), Edit(True, 2, 0)], 6, geometry) == 0.5
    assert swap_rate([Edit(False, 2, 16)], 8, geometry) == 0.5
    assert swap_rate([], 0, geometry) == 0.0


def test_what_follows_a_legal_tiling_is_looked_at() -> None:
    """A tiling that was checked may grow by raw tokens and by the edits of a plan, and by nothing else."""
    allocator = BestAllocator(AllocatorConfig(), Geometry(4, 1), 2, recent=8)
    tiling = raw(0, 32)
    allocator.fit(tiling, 32, 32)
    longer = extended(tiling, 32, 36)
    allocator.fit(longer, 36, 36)
    shifted = Tiling(longer.lod, longer.start + 1)
    for wrong, length in (
        (longer, 37),
        (shifted, 36),
        (extended(longer, 37, 40), 39),
        (allocator.editor.collapsed(longer, np.array([32]))[0], 36),
    ):
        with pytest.raises(ValueError):
            allocator.fit(wrong, length, 40)
    allocator.fit(longer, 36, 36)
    recent, _ = allocator.apply(longer, [Edit(False, 1, 32)])  # a block that must stay raw
    with pytest.raises(ValueError, match="recency"):
        allocator.fit(recent, 36, 40)
    allocator.fit(longer, 36, 36)
    old, _ = allocator.apply(longer, [Edit(False, 1, 4)])
    assert allocator.fit(old, 36, 40)[0] is old


@pytest.mark.parametrize(("faint", "paid"), [(-3.0, True), (-1.5, False)])
def test_high_gists_give_way_to_what_more_points_into_than_into_all_of_them(faint: float, paid: bool) -> None:
    """However many blocks a family of high gists stands for, what is lost with it is what points into its nodes."""
    geometry = Geometry(4, 1)
    allocator = BestAllocator(AllocatorConfig(), geometry, 3, recent=4)
    tiling = as_tiling(entries([2] * 16 + [1] * 4 + [0], 84, geometry))
    scores = np.full(len(tiling.lod), -13.8, dtype=np.float32)
    scores[:4] = [faint, faint, -13.8, -13.8]  # together faint + log 2
    node = int(np.flatnonzero(tiling.lod == 1)[1])
    scores[node] = -1.0
    edits = allocator.plan(tiling, 84, len(tiling.lod), scores)
    assert (edits == [Edit(False, 3, 0), Edit(True, 1, int(tiling.start[node]))]) == paid
    assert bool(edits) == paid
