"""Samplers: every draw legal and of exactly the same width, every possibility equally likely, detail where it is wanted."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.layout.compression import Compression, compression, repeated, sample_distinct, sample_levels
from mc.layout.layout import Geometry, check, from_levels, widths


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def compressions(draw: st.DrawFn) -> tuple[Compression, int]:
    """(a compression with incomplete groups and a raw tail, the width that was asked for)."""
    block_size = draw(st.sampled_from([2, 3, 4, 8, 16, 32]))
    geometry = Geometry(block_size, draw(st.sampled_from([s for s in (1, 2, 4) if block_size % s == 0 and s < block_size])))
    max_lod = draw(st.integers(1, 3))
    blocks = draw(st.integers(1, min(1_500, 3 * block_size ** (max_lod - 1) + block_size)))
    tail = draw(st.integers(0, 2 * block_size))
    higher, free = [], blocks
    for level in range(max_lod, 1, -1):
        higher.insert(0, draw(st.integers(0, free // block_size ** (level - 1))))
        free -= higher[0] * block_size ** (level - 1)
    width = draw(st.integers(1, blocks * block_size + tail))
    return compression(width, blocks, tail, geometry, tuple(higher)), width


def assert_legal(levels: torch.Tensor, kind: Compression) -> None:
    """`levels` [N,F]: as many nodes of each level as said, exactly the width, and legal."""
    geometry, length = kind.geometry, kind.blocks * kind.geometry.block_size + kind.tail
    for level, count in enumerate(kind.nodes, 1):
        assert ((levels == level).sum(1) == count * geometry.block_size ** (level - 1)).all()
    assert (widths(levels, length, geometry) == kind.width).all()
    layout = from_levels(levels, length, kind.width, geometry)
    check(layout, geometry, end=length, max_entries=kind.width, recent=kind.tail, max_lod=len(kind.nodes))


@settings(max_examples=150, deadline=None)
@given(compressions(), st.integers(0, 2**32), st.sampled_from(["uniform", "scores", "distinct"]))
def test_every_draw_is_legal_and_exactly_as_wide(case, seed: int, how: str) -> None:
    kind, _ = case
    n = max(2, min(16, 8_000 // (kind.blocks * kind.geometry.block_size)))
    if how == "distinct":
        levels = sample_distinct(kind, 2, n // 2, generator(seed))
        assert levels.shape == (min(n // 2, kind.possibilities), 2, kind.blocks)
        for row in range(2):
            assert len(levels[:, row].unique(dim=0)) == len(levels)
        levels = levels.flatten(0, 1)
    else:
        scores = 3 * torch.randn(n, kind.blocks, generator=generator(seed + 1)) if how == "scores" else None
        levels = sample_levels(kind, n, generator(seed), scores)
        assert levels.shape == (n, kind.blocks) and levels.dtype == torch.int64
    assert_legal(levels, kind)
    again = sample_distinct(kind, 2, n // 2, generator(seed)).flatten(0, 1) if how == "distinct" else None
    assert again is None or torch.equal(levels, again)


@settings(max_examples=200, deadline=None)
@given(compressions())
def test_no_reachable_width_is_nearer(case) -> None:
    kind, width = case
    free = kind.blocks - sum(n * kind.geometry.block_size ** (level - 1) for level, n in enumerate(kind.nodes, 1) if level > 1)
    reachable = [Compression((n1, *kind.nodes[1:]), kind.blocks, kind.tail, kind.geometry).width for n1 in range(free + 1)]
    assert abs(kind.width - width) == min(abs(w - width) for w in reachable)


@pytest.mark.parametrize("higher", [(3,), (0, 1), (-1,), (1, 1)])
def test_higher_nodes_that_do_not_fit_are_refused(higher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^-?\d nodes of level \d do not fit into \d+ blocks$"):
        compression(10, 16 if len(higher) == 2 and higher[0] else 11, 3, Geometry(4), higher)


SMALL = [
    Compression((2,), 5, 3, Geometry(4)),
    Compression((0,), 3, 0, Geometry(4)),
    Compression((3,), 3, 1, Geometry(4, 2)),
    Compression((1, 1), 7, 1, Geometry(2)),
    Compression((0, 2), 7, 0, Geometry(3)),
    Compression((1, 1, 1), 9, 0, Geometry(2)),
    Compression((2, 0, 1), 8, 2, Geometry(2)),
]


def enumerated(kind: Compression) -> set[tuple[int, ...]]:
    """Every level for each block, all that are legal and have the nodes of `kind`."""
    found = set()
    for levels in itertools.product(range(len(kind.nodes) + 1), repeat=kind.blocks):
        block, nodes = 0, Counter()
        while block < kind.blocks:
            group = kind.geometry.block_size ** max(levels[block] - 1, 0)
            if block % group or set(levels[block : block + group]) != {levels[block]} or block + group > kind.blocks:
                break
            nodes[levels[block]] += 1
            block += group
        else:
            if all(nodes[level] == count for level, count in enumerate(kind.nodes, 1)):
                found.add(levels)
    return found


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("distinct", [False, True])
def test_every_possibility_is_equally_likely(kind: Compression, distinct: bool) -> None:
    possible = enumerated(kind)
    assert kind.possibilities == len(possible)
    n = 300 * len(possible)
    # Three of a row at a time: that they differ must not make any of them rarer.
    levels = sample_distinct(kind, n // 3, 3, generator(7)).flatten(0, 1) if distinct else sample_levels(kind, n, generator(7))
    counts = Counter(map(tuple, levels.tolist()))
    assert counts.keys() == possible
    expected = len(levels) / len(possible)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(possible) - 1
    assert chi_square <= freedom + 4 * math.sqrt(2 * freedom)  # mean + 4 standard deviations
    if not distinct and freedom:
        assert chi_square > freedom - 4 * math.sqrt(2 * freedom)


def test_blocks_of_high_scores_stay_raw() -> None:
    kind = Compression((6,), 10, 0, Geometry(4))
    scores = torch.randn(500, 10, generator=generator(1))
    levels = sample_levels(kind, 500, generator(2), 1e4 * scores)
    assert torch.equal(levels == 0, scores >= scores.sort(1).values[:, 6:7])  # sure
    mild = sample_levels(kind, 500, generator(2), scores)
    raw, gist = scores[mild == 0].mean(), scores[mild == 1].mean()
    assert 0.5 < raw - gist < (scores[levels == 0].mean() - scores[levels == 1].mean()) - 0.1  # probable


def test_a_group_is_chosen_by_its_mean_score() -> None:
    kind = Compression((1, 1), 7, 0, Geometry(3))  # two groups of level 2, and a block
    scores = torch.tensor([[9.0, -1, -1, 1, 1, 1, 0]]) * 1e4  # means 2.33 and 1: the second is collapsed
    levels = sample_levels(kind, 1, generator(0), scores)
    assert levels.tolist() in ([[0, 1, 0, 2, 2, 2, 0]], [[0, 0, 1, 2, 2, 2, 0]])


@pytest.mark.parametrize("kind", [Compression((1,), 2, 0, Geometry(4)), Compression((0, 1), 8, 0, Geometry(4))])
def test_the_odds_follow_the_mean_scores(kind: Compression) -> None:
    """Gumbel noise: of two nodes, one is made with the probability that a softmax of −score gives."""
    scores = torch.arange(kind.blocks) < kind.blocks // 2  # of the first node 1, of the second 0
    levels = sample_levels(kind, 20_000, generator(3), scores.float().expand(20_000, -1))
    share = (levels[:, 0] > 0).double().mean().item()
    assert abs(share - 1 / (1 + math.e)) < 4 * math.sqrt(0.2 / 20_000)


def test_repeats_are_found_within_a_row_alone() -> None:
    a, b = [1, 0], [0, 1]
    levels = torch.tensor([[a, b], [a, a], [b, b], [a, a]])  # [4 variants, 2 rows, 2 blocks]
    assert repeated(levels).tolist() == [[False, False], [True, False], [False, True], [True, True]]


def test_no_more_variants_than_there_are() -> None:
    kind = Compression((1,), 3, 0, Geometry(4))
    levels = sample_distinct(kind, 5, 8, generator(0))
    assert levels.shape == (3, 5, 3)
    for row in levels.unbind(1):
        assert sorted(row.tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_the_same_generator_draws_the_same() -> None:
    kind = Compression((9, 1), 30, 5, Geometry(8))
    draws = [sample_distinct(kind, 3, 4, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
