"""Random compressions of a row, all of exactly the same width, so that they stack without padding.

Shapes: `N` variants, `F` blocks that may be compressed, `W` entries. A variant is drawn as `levels` [N,F], the level that
covers each block (see `layout.from_levels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mc.layout.layout import Geometry


@dataclass(frozen=True)
class Compression:
    """Number of nodes of each level in a variant: `nodes[l − 1]` of level l over `blocks` blocks, and `tail` raw tokens."""

    nodes: tuple[int, ...]
    blocks: int
    tail: int
    geometry: Geometry

    @property
    def width(self) -> int:
        """Entries of a variant."""
        saved = sum(n * (self.geometry.span(level) - self.geometry.size(level)) for level, n in enumerate(self.nodes, 1))
        return self.blocks * self.geometry.block_size + self.tail - saved

    @property
    def possibilities(self) -> int:
        """Number of different variants."""
        total, covered = 1, 0  # blocks under nodes of higher levels
        for level in range(len(self.nodes), 0, -1):
            group = self.geometry.block_size ** (level - 1)
            total *= math.comb(self.blocks // group - covered // group, self.nodes[level - 1])
            covered += self.nodes[level - 1] * group
        return total


def compression(width: int, blocks: int, tail: int, geometry: Geometry, higher: tuple[int, ...] = ()) -> Compression:
    """The compression whose width is nearest to `width`, given `higher`, the number of nodes of each level from 2 up.

    Raises `ValueError` if the higher nodes do not fit.
    """
    K = geometry.block_size
    free = blocks
    for level in range(len(higher) + 1, 1, -1):
        group = K ** (level - 1)
        # Aligned groups nest, so the blocks under higher nodes are whole groups of this level.
        if not 0 <= higher[level - 2] <= blocks // group - (blocks - free) // group:
            raise ValueError(f"{higher[level - 2]} nodes of level {level} do not fit into {blocks} blocks")
        free -= higher[level - 2] * group
    base = Compression((0, *higher), blocks, tail, geometry)
    n1 = round((base.width - width) / (K - geometry.slots))
    return Compression((min(max(n1, 0), free), *higher), blocks, tail, geometry)


def sample_levels(
    compression: Compression,
    n: int,
    generator: torch.Generator | None = None,
    scores: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Samples `n` variants as levels, int64 [n,F]: nodes are chosen uniformly, the highest level first.

    With `scores` (fp32 [n,F], high = wants detail) blocks are chosen by Gumbel noise minus score, so that blocks of low score
    are collapsed more often. `generator` must be on the CPU.
    """

    def rank(groups: int, group: int) -> Tensor:
        noise = torch.rand(n, groups, generator=generator).to(device, non_blocking=True)
        if scores is None:
            return noise
        gumbel = -torch.log(-torch.log(noise.clamp(min=1e-20)))
        return scores[:, : groups * group].view(n, groups, group).mean(-1) - gumbel

    return fill_levels(compression, n, rank, device)


def fill_levels(compression: Compression, n: int, rank: Callable[[int, int], Tensor], device: torch.device | str) -> Tensor:
    """Fills `n` layouts of `compression`, as levels int64 [n,F], from the highest level down.

    `rank(groups, group)` is fp32 [n, groups] for aligned groups of `group` blocks: those of the lowest rank become nodes, the
    oldest first if ranks are equal.
    """
    F, K = compression.blocks, compression.geometry.block_size
    levels = torch.zeros(n, F, dtype=torch.int64, device=device)
    for level in range(len(compression.nodes), 0, -1):
        count, group = compression.nodes[level - 1], K ** (level - 1)
        if not count:
            continue
        groups = F // group
        covered = levels[:, : groups * group].view(n, groups, group)
        order = rank(groups, group).masked_fill((covered > 0).any(-1), math.inf).argsort(dim=-1, stable=True)
        chosen = torch.zeros(n, groups, dtype=torch.bool, device=device).scatter_(1, order[:, :count], True)
        covered.masked_fill_(chosen[..., None], level)
    return levels


def sample_distinct(compression: Compression, rows: int, per_row: int, generator: torch.Generator) -> Tensor:
    """Samples `min(per_row, possibilities)` different variants of each of `rows` rows, int64 [V, rows, F], on the CPU."""
    V = min(per_row, compression.possibilities)
    levels = sample_levels(compression, V * rows, generator).view(V, rows, -1)
    while True:
        again = repeated(levels)  # (V, rows)
        count = int(again.sum())
        if not count:
            return levels
        levels[again] = sample_levels(compression, count, generator)


def repeated(levels: Tensor) -> Tensor:
    """bool [V, rows]: variants [V, rows, F] that equal an earlier one of their row."""
    same = (levels[:, None] == levels[None]).all(-1)  # (V, V, rows)
    earlier = torch.ones(levels.shape[0], levels.shape[0], dtype=torch.bool, device=levels.device).tril(-1)
    return (same & earlier[..., None]).any(1)
