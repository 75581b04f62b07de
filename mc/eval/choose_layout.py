"""Layouts of one width by block scores: the blocks with the highest scores stay raw.

Shapes: `N` layouts, `F` blocks that may be compressed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mc.layout.compression import Compression, compression, fill_levels
from mc.layout.layout import Geometry
from mc.row_plan import RowPlan


def nearest_compression(width: int, plan: RowPlan) -> Compression:
    """The compression of `plan`'s rows nearest to `width` entries, with as few nodes above level 1 as possible."""
    geometry, best = plan.config.geometry, None
    for higher in _higher_nodes(plan.blocks, geometry, plan.max_lod):
        candidate = compression(width, plan.blocks, plan.tail, geometry, higher)
        missed = abs(candidate.width - width)
        if best is None or missed < abs(best.width - width):
            best = candidate
        if 2 * missed <= geometry.block_size - geometry.slots:  # one block more or less would not come nearer
            break
    assert best is not None
    return best


def _higher_nodes(blocks: int, geometry: Geometry, max_lod: int) -> Iterator[tuple[int, ...]]:
    """Yields node counts of the levels from 2 up, each with one more of the highest level in use and the rest as coarse as possible."""
    K = geometry.block_size
    yield ()
    for top in range(2, max_lod + 1):
        for count in range(1, blocks // K ** (top - 1) + 1):
            counts, free = [count], blocks - count * K ** (top - 1)
            for level in range(top - 1, 1, -1):
                counts.append(free // K ** (level - 1))
                free -= counts[-1] * K ** (level - 1)
            yield tuple(reversed(counts))


def coarsest(compression: Compression) -> Compression:
    """`compression` with every block collapsed that its higher nodes do not cover."""
    K = compression.geometry.block_size
    covered = sum(count * K ** (level - 1) for level, count in enumerate(compression.nodes[1:], 2))
    return dataclasses.replace(compression, nodes=(compression.blocks - covered, *compression.nodes[1:]))


def by_score(compression: Compression, scores: Tensor) -> Tensor:
    """The layout of `compression` that collapses the lowest scores, int64 levels [N,F] from scores fp32 [N,F].

    The highest level is filled first, with the groups of the lowest mean score; ties collapse the oldest.
    """

    def rank(groups: int, group: int) -> Tensor:
        return scores[:, : groups * group].unflatten(1, (groups, group)).mean(-1)

    return fill_levels(compression, len(scores), rank, scores.device)


def by_recency(compression: Compression, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """The layout that keeps the most recent blocks raw, int64 levels [rows, F]."""
    age = torch.arange(compression.blocks, device=device).float()
    return by_score(compression, age.expand(rows, -1))
