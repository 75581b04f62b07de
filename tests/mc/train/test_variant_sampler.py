"""Variants of micro-batches: a function of seed and request, prepared ahead, legal."""

from __future__ import annotations

import pytest
import torch

from mc.config import MCConfig
from mc.layout.layout import check
from mc.row_plan import RowPlan
from mc.train.variant_sampler import Request, Sampler, lay_out
from tests.helpers.layouts import compression_of

CPU = torch.device("cpu")


def plan(T: int = 512, **config) -> RowPlan:
    return RowPlan(MCConfig(**({"block_size": 8, "mc_max_lod": 2} | config)), T)


def same(a, b) -> bool:
    return torch.equal(a.levels, b.levels) and all(
        torch.equal(x, y) for x, y in zip((*a.layout, a.index), (*b.layout, b.index), strict=True)
    )


def test_variants_follow_from_seed_and_request() -> None:
    request = Request(7, 3, 2, 300)
    first = Sampler(plan(), 1, False)
    assert same(first.sample(request), Sampler(plan(), 1, False).sample(request))
    others = [Sampler(plan(), 2, False).sample(request), first.sample(request._replace(draw=8))]
    assert not any(torch.equal(other.levels, first.sample(request).levels) for other in others)
    # Processes have other micro-batches at a time, but of nearly the same width: they wait for each other.
    widths = [first.sample(request._replace(draw=draw)).compression.width for draw in range(20)]
    assert max(widths) - min(widths) <= 8


def test_what_was_prepared_is_what_would_have_been_drawn() -> None:
    ahead, alone = Sampler(plan(), 5, False), Sampler(plan(), 5, False)
    requests = [Request(draw, 3, 2, width) for draw, width in enumerate((300, 300, 250, 250, 200))]
    for request in requests:  # the third and the fifth are not what was expected
        assert same(ahead(request, request._replace(draw=request.draw + 1), CPU), alone.sample(request))


@pytest.mark.parametrize("width", [410, 300, 200, 110])
def test_a_group_becomes_one_gist_only_where_that_leaves_enough_entries(width: int) -> None:
    sampler = Sampler(plan(mc_training_lod2_probability=1.0), 0, False)
    variants = sampler.sample(Request(0, 2, 3, width))
    geometry = sampler.plan.config.geometry
    check(variants.layout, geometry, end=512, max_entries=variants.compression.width, recent=sampler.plan.tail, max_lod=2)
    assert abs(variants.compression.width - width) <= 4  # half of what a block saves
    if width <= 410:
        assert variants.compression.nodes[1] > 0


def test_targets_lie_behind_the_nodes() -> None:
    small = plan(48, allocator_recent_tokens=8, mc_horizon=8, mc_train_wc_length=30)
    levels = torch.tensor([[[1, 0, 1, 0]]])
    variants = lay_out(small, compression_of(levels[0, 0], small.tail, small.config.geometry), levels)
    assert variants.predicts[0].tolist() == [7, *range(8, 16), 23, *range(24, 48)]


def test_some_variants_of_each_row() -> None:
    variants = Sampler(plan(), 0, False).sample(Request(0, 3, 2, 300))
    some, rows = variants.some(2, 2)  # numbers 2 and 0
    assert rows.tolist() == [4, 5, 0, 1] and torch.equal(some.levels, variants.levels[[2, 0]])
    for part, whole in zip((*some.layout, some.index, some.predicts), (*variants.layout, variants.index, variants.predicts), strict=True):
        assert torch.equal(part, whole[rows])
