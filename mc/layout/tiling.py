"""Edits of one Working Context: a node becomes its K children, K siblings become their parent.

In numpy, as it happens every few tokens on the CPU and the arrays are short. `W` entries, `E` edits, `K` block size, `S` slots of
a gist. K nodes of one level with one parent, all of them there, are a *family*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mc.layout.layout import Geometry, Layout, check

BEYOND = 1 << 62  # tokens: more than any history has, and twice that is still an int64


class Edit(NamedTuple):
    """The node of level ≥ 1 that is expanded, or that is made by collapsing its K children, by its level and first token."""

    expand: bool
    level: int
    start: int


class Tiling(NamedTuple):
    """One row of `mc.layout.layout.Layout`: level and first token of each entry, int64 [W]."""

    lod: np.ndarray
    start: np.ndarray


def raw(begin: int, end: int) -> Tiling:
    """The tokens `begin … end−1` as they are."""
    start = np.arange(begin, end, dtype=np.int64)
    return Tiling(np.zeros_like(start), start)


def extended(tiling: Tiling, length: int, end: int) -> Tiling:
    """`tiling` of `length` tokens, and the tokens `length … end−1` as they are."""
    lod, start = raw(length, end)
    return Tiling(np.concatenate([tiling.lod, lod]), np.concatenate([tiling.start, start]))


class Editor:
    """What can be edited in tilings of a geometry with levels up to `max_lod`, and the edits themselves.

    By level, int64: `span` tokens of a node, `up` tokens of its parent, `stride` tokens of an entry, `family` entries of K
    siblings, `saving` entries that a node has fewer than its K children.
    """

    def __init__(self, geometry: Geometry, max_lod: int) -> None:
        if max_lod < 1:
            raise ValueError(f"mc_max_lod is {max_lod}; it must be at least 1")
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
            raise ValueError(f"lod {lod.shape} {lod.dtype} and start {start.shape} {start.dtype} are no pair of int64 [W]")
        if not self._legal(tiling, length, recent):
            layout = Layout(torch.from_numpy(lod)[None], torch.from_numpy(start)[None])
            check(layout, self.geometry, end=length, recent=recent, max_lod=self.max_lod)
            raise AssertionError("a tiling that mc.layout.layout.check allows was refused")

    def _legal(self, tiling: Tiling, length: int, recent: int) -> bool:
        """`mc.layout.layout.check` in a tenth of its time."""
        lod, start = tiling
        if not len(lod):
            return length == 0
        if lod.min() < 0 or lod.max() > self.top:
            return False
        stride = self.stride[lod]
        ends = start + stride
        if start[0] != 0 or ends[-1] != length or (ends[:-1] != start[1:]).any():
            return False
        first = self.nodes(tiling)
        if np.count_nonzero(lod) != len(first) * self.geometry.slots:
            return False
        # S entries that begin with a node's and end with it are its slots: no others add up to its span.
        last = np.minimum(first + self.geometry.slots, len(lod)) - 1
        end = start[first] + self.span[lod[first]]
        return bool((ends[last] == end).all()) and (not len(end) or end[-1] <= length - recent)

    def nodes(self, tiling: Tiling) -> np.ndarray:
        """The first entry of each gist node, in order."""
        lod, start = tiling
        return np.flatnonzero((lod > 0) & (start % self.span[lod] == 0))

    def families(self, tiling: Tiling, limit: int) -> np.ndarray:
        """The first entry of each family whose parent ends at token `limit` or before, and is of no level above the top, in order."""
        lod, start = tiling
        up = self.up[lod]
        first = np.flatnonzero((start % up == 0) & (start + up <= limit))
        level = lod[first]
        last = np.minimum(first + self.family[level], len(lod)) - 1
        # Inside the parent no entry accounts for more tokens than a sibling's: where so many of them span it, all are siblings'.
        whole = (lod[last] == level) & (start[last] + self.stride[level] == start[first] + up[first])
        return first[whole]

    def replaced(
        self, tiling: Tiling, first: np.ndarray, taken: np.ndarray, level: np.ndarray, put: np.ndarray
    ) -> tuple[Tiling, np.ndarray]:
        """`tiling` with the `taken` entries from each entry `first` on replaced by `put` entries of `level` (int64 [E] each).

        And for each new entry, the same entry's index in `tiling`, −1 where it was not there.
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
        """`replaced` where the families that begin at the entries `first` become their parents."""
        level = tiling.lod[first]
        return self.replaced(tiling, first, self.family[level], level + 1, np.full_like(level, self.geometry.slots))

    def apply(self, tiling: Tiling, edits: Sequence[Edit]) -> tuple[Tiling, np.ndarray]:
        """`replaced` by `edits`, of nodes that are apart from each other. Raises `ValueError` naming the first that cannot be."""
        lod, start = tiling
        if not edits:
            return tiling, np.arange(len(lod))
        for edit in edits:
            if not 1 <= edit.level <= self.top:
                raise ValueError(f"{edit} is of no level from 1 to {self.top}")
        expand, level, begin = np.array(sorted(edits, key=lambda edit: edit.start), dtype=np.int64).T
        end, children = begin + self.span[level], self.family[level - 1]
        taken = np.where(expand, self.geometry.slots, children)
        first = start.searchsorted(begin)
        last = first + taken - 1
        here = np.minimum(last, len(lod) - 1)  # so that what begins too late can be looked at
        old = level - 1 + expand
        possible = (last < len(lod)) & (lod[here] == old) & (start[here] + self.stride[old] == end) & (begin % self.span[level] == 0)
        possible[1:] &= begin[1:] >= end[:-1]
        if not possible.all():
            wrong = int(np.flatnonzero(~possible)[0])
            edit = Edit(bool(expand[wrong]), int(level[wrong]), int(begin[wrong]))
            raise ValueError(f"{edit} cannot be: {'the node' if edit.expand else 'a child'} is not there, or another edit takes it")
        return self.replaced(tiling, first, taken, level - expand, np.where(expand, children, self.geometry.slots))
