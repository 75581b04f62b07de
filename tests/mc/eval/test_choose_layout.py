"""Layouts of a budget: legal, of one width, as near to the budget as can be, and made of the blocks that score highest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.config import MCConfig
from mc.eval.choose_layout import by_recency, by_score, coarsest, nearest_compression
from mc.layout.compression import Compression
from mc.layout.layout import check, from_levels, widths
from mc.nets.gistnet import GistConfig
from mc.row_plan import RowPlan


@st.composite
def budgets(draw: st.DrawFn) -> tuple[RowPlan, int]:
    """(plan of a row, entries to aim at)."""
    K, slots = draw(st.sampled_from([(8, 1), (8, 2), (8, 4), (32, 1), (32, 4)]))
    recent, horizon = K * draw(st.integers(1, 3)), draw(st.integers(1, 3 * K))
    length = recent + horizon + draw(st.integers(K, 90 * K))
    tail = length - (length - recent - horizon) // K * K
    width = draw(st.integers(tail + 1, length))
    config = MCConfig(
        block_size=K,
        mc_max_lod=draw(st.integers(1, 3)),
        mc_horizon=horizon,
        allocator_recent_tokens=recent,
        mc_train_wc_length=width,
        gist=GistConfig(gist_slots=slots),
    )
    return RowPlan(config, length), width


@settings(max_examples=150, deadline=None)
@given(budgets(), st.integers(0, 2**32))
def test_chosen_layouts_are_legal_and_of_the_width_that_was_said(budget: tuple[RowPlan, int], seed: int) -> None:
    plan, width = budget
    geometry, kind = plan.config.geometry, nearest_compression(width, plan)
    scores = torch.rand(3, plan.blocks, generator=torch.Generator().manual_seed(seed))
    for compression in (kind, coarsest(kind)):
        for levels in (by_score(compression, scores), by_recency(compression, 3)):
            assert (widths(levels, plan.length, geometry) == compression.width).all()
            layout = from_levels(levels, plan.length, compression.width, geometry)
            check(layout, geometry, end=plan.length, recent=plan.recent + plan.horizon, max_lod=plan.max_lod)
    assert coarsest(kind).width <= kind.width


@settings(max_examples=100, deadline=None)
@given(budgets())
def test_the_budget_is_met_as_nearly_as_can_be_with_as_few_high_gists_as_that_takes(budget: tuple[RowPlan, int]) -> None:
    plan, width = budget
    geometry, blocks, kind = plan.config.geometry, plan.blocks, nearest_compression(width, plan)
    K, step = geometry.block_size, geometry.block_size - geometry.slots  # what a block more or less changes
    seconds = blocks // K if plan.max_lod > 1 else 0
    reachable = {
        n2: [Compression((n1, n2), blocks, plan.tail, geometry).width for n1 in range(blocks - n2 * K + 1)] for n2 in range(seconds + 1)
    }
    nearest = min(abs(other - width) for others in reachable.values() for other in others)
    assert abs(kind.width - width) <= max(nearest, step / 2)
    if sum(kind.nodes[1:]):  # one less would not have done
        assert all(abs(other - width) > step / 2 for n2 in range(kind.nodes[1]) for other in reachable[n2])


def plan_of(blocks: int, max_lod: int = 2) -> RowPlan:
    return RowPlan(
        MCConfig(block_size=8, mc_max_lod=max_lod, mc_horizon=8, allocator_recent_tokens=8, mc_train_wc_length=40), blocks * 8 + 16
    )


def test_what_scores_highest_stays_raw_and_the_oldest_of_equals_goes() -> None:
    kind = Compression((3,), 6, 16, plan_of(6).config.geometry)
    assert by_score(kind, torch.tensor([[0.5, 0.1, 0.9, 0.7, 0.2, 0.3]])).tolist() == [[0, 1, 0, 0, 1, 1]]
    assert by_score(kind, torch.zeros(1, 6)).tolist() == by_recency(kind, 1).tolist() == [[1, 1, 1, 0, 0, 0]]


def test_the_highest_gists_take_the_groups_of_the_lowest_mean() -> None:
    kind = Compression((2, 1), 20, 16, plan_of(20).config.geometry)
    scores = torch.linspace(1, 2, 20)
    scores[8:16] = 0.5  # the second group of eight blocks
    scores[18] = 0.0
    scores[3] = 0.9
    assert by_score(kind, scores[None])[0].tolist() == [0, 0, 0, 1] + [0] * 4 + [2] * 8 + [0, 0, 1, 0]


@pytest.mark.parametrize("width, nodes", [(536, (0,)), (536 - 7, (1,)), (88, (64,)), (80, (56, 1)), (54, (24, 5)), (24, (0, 0, 1))])
def test_higher_levels_only_where_the_budget_takes_them(width: int, nodes: tuple[int, ...]) -> None:
    plan = RowPlan(MCConfig(block_size=8, mc_max_lod=3, mc_horizon=8, allocator_recent_tokens=16, mc_train_wc_length=40), 64 * 8 + 24)
    assert nearest_compression(width, plan).nodes == nodes


def test_the_least_that_four_levels_can_do() -> None:
    blocks = 512 + 3 * 64 + 2 * 8 + 5
    plan = RowPlan(MCConfig(block_size=8, mc_max_lod=4, mc_horizon=8, allocator_recent_tokens=16, mc_train_wc_length=40), blocks * 8 + 24)
    assert nearest_compression(24 + 11, plan).nodes == (5, 2, 3, 1)
    assert nearest_compression(24 + 11 + 8, plan).width <= 24 + 11 + 8 + 3
