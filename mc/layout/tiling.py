"""Tilings (layouts of one row, in numpy) and their edits: a node becomes its K children, or K siblings become their parent.

In numpy because edits happen every few tokens on the CPU, on short arrays. `W` entries, `E` edits, `K` block size, `S` slots of a
gist. All K children of one parent, if they are of one level, are a *family*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mc.layout.layout import Geometry, Layout, check

BEYOND = 1 << 62  # tokens: more than any history has, and twice that is still an int64


class Edit(NamedTuple):
    """Level ≥ 1 and first token of a node to expand, or of a node to make by collapsing its K children."""

    expand: bool
    level: int
    start: int


class Tiling(NamedTuple):
    """One row of `mc.layout.layout.Layout`: level and first token of each entry, int64 [W]."""

    lod: np.ndarray
    start: np.ndarray

    def some(self, which: np.ndarray | slice) -> Tiling:
        """The entries that an index of numpy selects."""
        return Tiling(self.lod[which], self.start[which])

    def layout(self, device: torch.device | str = "cpu") -> Layout:
        """Layout of one row."""
        return Layout(*(torch.from_numpy(part)[None].to(device) for part in self))


def raw(begin: int, end: int) -> Tiling:
    """Tiling of the tokens `begin … end−1`, all raw."""
    start = np.arange(begin, end, dtype=np.int64)
    return Tiling(np.zeros_like(start), start)


def extended(tiling: Tiling, length: int, end: int) -> Tiling:
    """`tiling` of `length` tokens, followed by the raw tokens `length … end−1`."""
    lod, start = raw(length, end)
    return Tiling(np.concatenate([tiling.lod, lod]), np.concatenate([tiling.start, start]))


class Editor:
    """Finds and applies edits of tilings with levels up to `max_lod`.

    By level, int64: `span` tokens of a node, `up` tokens of its parent, `stride` tokens of an entry, `family` entries of K
    siblings, `saving` entries that a node has fewer than its K children.
    """

    def __init__(self, geometry: Geometry, max_lod: int) -> None:
        self.geometry, self.max_lod = geometry, max_lod
        levels = [0]  # those that a history can reach
        while levels[-1] < max_lod and geometry.span(levels[-1] + 1) < BEYOND:
            levels.append(levels[-1] + 1)
        self.top = levels[-1]
        self.span = np.array([geometry.span(level) for level in levels])
        self.up = np.append(self.span[1:], BEYOND)
        self.stride = np.array([geometry.stride(level) for level in levels])
        self.family = np.array([geometry.block_size * geometry.size(level) for level in levels])
        self.saving = np.append(0, self.family[:-1] - geometry.slots)

    def check(self, tiling: Tiling, length: int, recent: int) -> None:
        """Raises `ValueError` (see `layout.check`) if `tiling` is not legal for `length` tokens, the last `recent` raw."""
        lod, start = tiling
        if lod.ndim != 1 or lod.shape != start.shape or lod.dtype != np.int64 or start.dtype != np.int64:
            raise ValueError(f"expected two int64 arrays [W], got lod {lod.shape} {lod.dtype} and start {start.shape} {start.dtype}")
        check(tiling.layout(), self.geometry, end=length, recent=recent, max_lod=self.max_lod)

    def nodes(self, tiling: Tiling) -> np.ndarray:
        """The first entry of each gist node, in order."""
        lod, start = tiling
        return np.flatnonzero((lod > 0) & (start % self.span[lod] == 0))

    def families(self, tiling: Tiling, limit: int) -> np.ndarray:
        """The first entry of each family whose parent ends at or before token `limit` and is of no level above the top, in order."""
        lod, start = tiling
        up = self.up[lod]
        first = np.flatnonzero((start % up == 0) & (start + up <= limit))
        level = lod[first]
        return first[self._filled(tiling, first, self.family[level], level, start[first] + up[first])]

    def _filled(self, tiling: Tiling, first: np.ndarray, count: np.ndarray, level: np.ndarray, end: np.ndarray) -> np.ndarray:
        """bool [E]: `count` entries of `level`, from entry `first` on, fill the node that ends at token `end`.

        Only the last one is looked at: no entry inside the node accounts for more tokens than one of `level`, so others would
        not reach `end`.
        """
        last = first + count - 1
        at = last.clip(max=len(tiling.lod) - 1)
        return (last == at) & (tiling.lod[at] == level) & (tiling.start[at] + self.stride[level] == end)

    def replaced(
        self, tiling: Tiling, first: np.ndarray, taken: np.ndarray, level: np.ndarray, put: np.ndarray
    ) -> tuple[Tiling, np.ndarray]:
        """Replaces the `taken` entries from each entry `first` on by `put` entries of `level` (int64 [E] each).

        Returns the new tiling, and for each of its entries the index in `tiling`, −1 if it is new.
        """
        lod, start = tiling
        W = len(lod)
        change = np.zeros(W + 1, dtype=np.int64)
        change[first] += 1
        change[first + taken] -= 1
        inside = change[:-1].cumsum()
        counts = 1 - inside
        counts[first] = put
        levels = lod.copy()
        levels[first] = level
        source = np.arange(W).repeat(counts)
        begin = counts.cumsum() - counts
        offset = np.arange(len(source)) - begin[source]
        new_lod = levels[source]
        new = Tiling(new_lod, start[source] + offset * self.stride[new_lod])
        return new, np.where(inside[source], -1, source)

    def collapsed(self, tiling: Tiling, first: np.ndarray) -> tuple[Tiling, np.ndarray]:
        """Collapses the families that begin at the entries `first`; returns as `replaced` does."""
        level = tiling.lod[first]
        return self.replaced(tiling, first, self.family[level], level + 1, np.full_like(level, self.geometry.slots))

    def apply(self, tiling: Tiling, edits: Sequence[Edit]) -> tuple[Tiling, np.ndarray]:
        """Applies `edits`, whose nodes must not overlap; returns as `replaced` does. Raises `ValueError` naming the first invalid one."""
        lod, start = tiling
        if not edits:
            return tiling, np.arange(len(lod))
        for edit in edits:
            if not 1 <= edit.level <= self.top:
                raise ValueError(f"invalid {edit}: expected a level from 1 to {self.top}")
        expand, level, begin = np.array(sorted(edits, key=lambda edit: edit.start), dtype=np.int64).T
        end, children = begin + self.span[level], self.family[level - 1]
        taken = np.where(expand, self.geometry.slots, children)
        first = start.searchsorted(begin)
        valid = self._filled(tiling, first, taken, level - 1 + expand, end) & (begin % self.span[level] == 0)
        valid[1:] &= begin[1:] >= end[:-1]
        if not valid.all():
            wrong = int(valid.argmin())
            edit = Edit(bool(expand[wrong]), int(level[wrong]), int(begin[wrong]))
            raise ValueError(
                f"invalid {edit}: {'the node' if edit.expand else 'a child'} is not in the layout, or another edit overlaps it"
            )
        return self.replaced(tiling, first, taken, level - expand, np.where(expand, children, self.geometry.slots))
