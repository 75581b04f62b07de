"""Layouts: the tree node at each place of a Working Context, as integer tensors.

Shapes: `B` rows, `W` entries, `F` complete blocks, `T` tokens; `K` block size, `S` gist slots of a node.

A node of level l stands for `K^l` tokens and begins at a multiple of that. A token is one entry; a gist node is `S`
entries, its slots, next to each other. Each entry has a *stride*, the tokens it accounts for: 1 for a token, `K^l / S` for a
slot, so `start + stride` is where the next entry begins, and with one slot the stride is the node's span. A layout is
`(lod, start)`; which slot an entry is follows from its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Block size K ≥ 2 and slots S of a gist, a divisor of K."""

    block_size: int = 32
    slots: int = 1

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ValueError(f"block_size is {self.block_size}; it must be at least 2")
        if self.slots < 1 or self.block_size % self.slots or self.slots == self.block_size:
            raise ValueError(f"gist_slots is {self.slots}; it must divide the block size {self.block_size} and be smaller")

    def span(self, level: int) -> int:
        """Tokens that a node of `level` stands for."""
        return self.block_size**level

    def stride(self, level: int) -> int:
        """Tokens that an entry of `level` accounts for."""
        return self.span(level) // self.slots if level else 1

    def size(self, level: int) -> int:
        """Entries of a node of `level`."""
        return self.slots if level else 1

    def spans(self, lod: Tensor) -> Tensor:
        """`span` of each level in `lod`, an integer tensor."""
        return torch.pow(self.block_size, lod)

    def strides(self, lod: Tensor) -> Tensor:
        """`stride` of each level in `lod`."""
        return torch.where(lod > 0, self.spans(lod) // self.slots, 1)


class Layout(NamedTuple):
    """Level and first token of each entry, int64 [B,W]; all rows have equally many entries."""

    lod: Tensor
    start: Tensor


def entry_ends(layout: Layout, geometry: Geometry) -> Tensor:
    """The token after the node of each entry, int64 [B,W]: the one that the entry predicts.

    All slots of a node predict the token after the node, because each may depend on all its tokens.
    """
    span = geometry.spans(layout.lod)
    return (layout.start // span + 1) * span


def from_levels(levels: Tensor, length: int, width: int, geometry: Geometry) -> Layout:
    """The layout [B, width] in which block f is covered by a node of level `levels[b, f]` (int64 [B,F]; 0 = its tokens).

    The tokens from F·K to `length` are raw. All blocks of a node must have its level, and every row must have `width` entries
    (see `widths`); neither is checked here.
    """
    B, F = levels.shape
    K = geometry.block_size
    token = torch.arange(length, device=levels.device)
    lod = torch.zeros(B, length, dtype=torch.int64, device=levels.device)
    lod[:, : F * K] = levels.repeat_interleave(K, dim=1, output_size=F * K)
    first = token % geometry.strides(lod) == 0  # (B, T): an entry begins here
    place = torch.where(first, first.cumsum(1) - 1, width)
    start = torch.zeros(B, width + 1, dtype=torch.int64, device=levels.device).scatter_(1, place, token.expand(B, length))[:, :width]
    return Layout(lod.gather(1, start), start)


def widths(levels: Tensor, length: int, geometry: Geometry) -> Tensor:
    """Entries of each row, int64 [B], in the layout that `from_levels` makes of `levels`."""
    F, K = levels.shape[1], geometry.block_size
    begin = torch.arange(F, device=levels.device) * K
    first = begin % geometry.spans(levels) == 0  # of the blocks of its node
    return torch.where(levels > 0, first * geometry.slots, K).sum(1) + (length - F * K)


def check(
    layout: Layout,
    geometry: Geometry,
    *,
    end: int,
    begin: int = 0,
    max_entries: int | None = None,
    recent: int = 0,
    max_lod: int | None = None,
) -> None:
    """Checks that a layout is legal. Raises `ValueError` naming the first entry that breaks a rule. Works on the CPU.

    A layout must be contiguous from `begin` to `end`, every node aligned and with all its slots, of at most `max_entries`
    entries, with its last `recent` tokens raw, and have no level above `max_lod` and no node beyond `end`.
    """
    lod, start = layout
    if lod.shape != start.shape or lod.ndim != 2 or lod.is_floating_point() or start.is_floating_point():
        given = f"lod {tuple(lod.shape)} {lod.dtype} and start {tuple(start.shape)} {start.dtype}"
        raise ValueError(f"expected two integer tensors [B,W], got {given}")
    lod, start = (part.cpu().numpy() for part in layout)  # on short rows several times as fast as torch

    width = lod.shape[1]
    if max_entries is not None and width > max_entries:
        raise ValueError(f"budget: {width} entries, of which entry {max_entries} is the first over the {max_entries} allowed")
    if width:
        _check_entries(lod, start, geometry, end, begin, recent, max_lod)
    elif begin != end:
        raise ValueError(f"contiguity: no entry covers the tokens {begin} … {end - 1}")


def _check_entries(lod: np.ndarray, start: np.ndarray, geometry: Geometry, end: int, begin: int, recent: int, max_lod: int | None) -> None:
    """The rules of `check` that hold for single entries and their neighbours; `lod` and `start` are [B,W], W ≥ 1."""

    def refuse(wrong: np.ndarray, rule: str, what: str) -> None:
        if wrong.any():
            row, entry = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"{rule}: entry {entry} of row {row} (level {lod[row, entry]}, token {start[row, entry]}) {what}")

    refuse(lod < 0, "existence", "has a negative level")
    if max_lod is not None:
        refuse(lod > max_lod, "existence", f"is above the tree's level {max_lod}")
    spans = [1]
    while spans[-1] * geometry.block_size <= end:
        spans.append(spans[-1] * geometry.block_size)
    beyond = f"stands for tokens beyond {end}"
    refuse(lod >= len(spans), "existence", beyond)  # its span might not fit into int64 either
    span, stride = np.array(spans)[lod], np.array([geometry.stride(level) for level in range(len(spans))])[lod]
    after = start + stride
    refuse(start != np.insert(after[:, :-1], 0, begin, axis=1), "contiguity", "does not begin where the entry before it ends")
    refuse(start % stride != 0, "alignment", "does not begin at a multiple of its stride")
    offset = start % span
    ends = start - offset + span
    refuse(ends > end, "existence", beyond)
    alike = np.zeros((len(lod), lod.shape[1] + 1), dtype=bool)  # entries w − 1 and w are of one level
    alike[:, 1:-1] = lod[:, 1:] == lod[:, :-1]
    whole = ((offset == 0) | alike[:, :-1]) & ((after == ends) | alike[:, 1:])
    refuse(~whole, "alignment", "belongs to a node of which a slot is missing")
    refuse((lod > 0) & (ends > end - recent), "recency", f"is a gist of the last {recent} tokens")
    for row, last in enumerate(after[:, -1].tolist()):
        if last != end:
            raise ValueError(f"contiguity: row {row} ends at token {last}, not at {end}")


@lru_cache(maxsize=64)
def tree_levels(length: int, gisted: int, geometry: Geometry, max_lod: int) -> tuple[int, ...]:
    """Complete nodes of each level up to `max_lod` in a tree over `length` tokens, of which the first `gisted` have gists."""
    counts = [length]
    while len(counts) <= max_lod and gisted // geometry.span(len(counts)):
        counts.append(gisted // geometry.span(len(counts)))
    return tuple(counts)
