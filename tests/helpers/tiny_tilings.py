"""Tilings drawn without our editor, and what nodes and families are, entry by entry from the definition."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import strategies as st

from mc.layout.layout import Geometry, Layout, check
from mc.layout.tiling import Tiling
from mc.session.allocator import FocusAllocator

Entry = tuple[int, int]  # (level, start)


def rows(tiling: Tiling) -> list[Entry]:
    """(level, start) of each entry."""
    return list(zip(tiling.lod.tolist(), tiling.start.tolist(), strict=True))


def as_tiling(row: list[Entry]) -> Tiling:
    """The tiling of these entries."""
    return Tiling(*np.array(row, dtype=np.int64).reshape(-1, 2).T.copy())


def node(level: int, start: int, geometry: Geometry) -> list[Entry]:
    """The entries of a node."""
    return [(level, start + slot * geometry.stride(level)) for slot in range(geometry.size(level))]


def children(level: int, start: int, geometry: Geometry) -> list[Entry]:
    """The entries of a node's children."""
    return [e for i in range(geometry.block_size) for e in node(level - 1, start + i * geometry.span(level - 1), geometry)]


def replaced(row: list[Entry], old: list[Entry], new: list[Entry]) -> list[Entry]:
    """`row` with the entries `old`, which are side by side in it, replaced by `new`."""
    first = row.index(old[0])
    assert row[first : first + len(old)] == old
    return row[:first] + new + row[first + len(old) :]


def gists(row: list[Entry], geometry: Geometry) -> list[Entry]:
    """The nodes above tokens."""
    return [(level, start) for level, start in row if level and start % geometry.span(level) == 0]


def families(row: list[Entry], geometry: Geometry, max_lod: int, limit: int) -> list[Entry]:
    """The parents, up to `max_lod` and ending at `limit` or before, of which all children are there."""
    there = set(row)
    parents = [(level + 1, start) for level, start in row if level < max_lod and start % geometry.span(level + 1) == 0]
    fitting = [(level, start) for level, start in parents if start + geometry.span(level) <= limit]
    return [parent for parent in fitting if there.issuperset(children(*parent, geometry))]


def random_tiling(rng: random.Random, geometry: Geometry, length: int, max_lod: int, recent: int) -> Tiling:
    """The coarsest tiling with some of its nodes expanded, and some of what comes of it."""
    row, begin = [], 0
    limit = max(0, length - recent) // geometry.block_size * geometry.block_size
    while begin < limit:
        level = max(n for n in range(1, max_lod + 1) if begin % geometry.span(n) == 0 and begin + geometry.span(n) <= limit)
        row += node(level, begin, geometry)
        begin += geometry.span(level)
    row += [(0, token) for token in range(limit, length)]
    for _ in range(rng.randint(0, 4)):
        nodes = gists(row, geometry)
        for chosen in rng.sample(nodes, rng.randint(0, (len(nodes) + 1) // 2)):
            if len(row) < 8 * geometry.block_size + 40:
                row = replaced(row, node(*chosen, geometry), children(*chosen, geometry))
    return as_tiling(row)


def assert_legal(tiling: Tiling, allocator: FocusAllocator, length: int, budget: int) -> None:
    """By `mc.layout.layout.check`."""
    layout = Layout(*(torch.from_numpy(part)[None] for part in tiling))
    check(layout, allocator.geometry, end=length, max_entries=budget, recent=allocator.recent, max_lod=allocator.max_lod)


def assert_source(before: Tiling, after: Tiling, source: np.ndarray) -> None:
    """Every entry that is in both is said to be, and no other."""
    old = {entry: place for place, entry in enumerate(rows(before))}
    assert source.tolist() == [old.get(entry, -1) for entry in rows(after)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Geometry, int, int, int, random.Random]:
    """(geometry, tokens, highest level, recent tokens, randomness): up to sixteen nodes of some level, and a ragged end."""
    block_size = draw(st.sampled_from([2, 3, 4, 6, 8, 16, 32]))
    geometry = Geometry(block_size, draw(st.sampled_from([s for s in (1, 2, 4) if block_size % s == 0 and s < block_size])))
    max_lod = draw(st.integers(1, 4))
    rng = random.Random(draw(st.integers(0, 2**32)))
    highest = geometry.span(rng.randint(1, max_lod))
    length = rng.randint(0, 16 * highest) + rng.randint(0, 2 * block_size)
    return geometry, length, max_lod, block_size * draw(st.integers(0, 2)), rng
