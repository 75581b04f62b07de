"""Edits against what they mean, node by node, and sequences of them: always legal, never a token lost."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.edits import collapse, expand
from mc.layout import Geometry, Layout, check, raw
from tests.mc.tiny_memory import as_layout, entries, random_levels

Entry = tuple[int, int]  # (level, start)


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
    """The nodes above tokens, by their first entry."""
    return [(level, start) for level, start in row if level and start % geometry.span(level) == 0]


def siblings(row: list[Entry], geometry: Geometry, max_lod: int) -> list[Entry]:
    """The first entries of whole families."""
    there = set(row)
    firsts = [(level, start) for level, start in row if level < max_lod and start % geometry.span(level + 1) == 0]
    return [e for e in firsts if there.issuperset(children(e[0] + 1, e[1], geometry))]


def marks(row: list[Entry], chosen: list[Entry]) -> torch.Tensor:
    return torch.tensor([[e in chosen for e in row]])


@st.composite
def starts(draw: st.DrawFn) -> tuple[Geometry, int, int, list[int], random.Random]:
    block_size = draw(st.sampled_from([2, 3, 4, 8, 32]))
    geometry = Geometry(block_size, draw(st.sampled_from([s for s in (1, 2, 4) if block_size % s == 0 and s < block_size])))
    max_lod = draw(st.integers(1, 3 if block_size <= 4 else 2))
    blocks = draw(st.integers(1, 2 * block_size ** (max_lod - 1) + 3))
    rng = random.Random(draw(st.integers(0, 2**32)))
    length = blocks * block_size + draw(st.integers(0, block_size + 2))
    return geometry, length, max_lod, random_levels(rng, blocks, block_size, max_lod), rng


@settings(max_examples=150, deadline=None)
@given(starts())
def test_any_sequence_of_edits_is_what_it_means_and_legal(start) -> None:
    geometry, length, max_lod, levels, rng = start
    row = entries(levels, length, geometry)
    layout = as_layout([row])
    for _ in range(8):
        collapsing = rng.random() < 0.5
        nodes = siblings(row, geometry, max_lod) if collapsing else gists(row, geometry)
        if not nodes:
            continue
        chosen = rng.sample(nodes, rng.randint(1, min(3, len(nodes))))
        layout = (collapse if collapsing else expand)(layout, marks(row, chosen), geometry)
        for level, begin in chosen:
            family, parent = (children(level + 1, begin, geometry), node(level + 1, begin, geometry)) if collapsing else (
                children(level, begin, geometry), node(level, begin, geometry)
            )  # fmt: skip
            row = replaced(row, family, parent) if collapsing else replaced(row, parent, family)
        assert torch.equal(torch.stack(layout, -1)[0], torch.tensor(row))
        check(layout, geometry, end=length, recent=length % geometry.block_size, max_lod=max_lod)


@settings(max_examples=60, deadline=None)
@given(starts())
def test_expanding_and_collapsing_again_is_the_identity(start) -> None:
    geometry, length, max_lod, levels, rng = start
    row = entries(levels, length, geometry)
    nodes = gists(row, geometry)
    if not nodes:
        return
    chosen = rng.sample(nodes, rng.randint(1, len(nodes)))
    expanded = expand(as_layout([row]), marks(row, chosen), geometry)
    firsts = [(level - 1, begin) for level, begin in chosen]
    again = collapse(expanded, marks([tuple(e) for e in torch.stack(expanded, -1)[0].tolist()], firsts), geometry)
    assert torch.equal(torch.stack(again, -1)[0], torch.tensor(row))


def test_rows_are_edited_each_on_its_own() -> None:
    geometry = Geometry(4, 2)
    rows = [entries(levels, 17, geometry) for levels in ([1, 0, 0, 1], [0, 1, 1, 0])]
    expanded = expand(as_layout(rows), torch.cat([marks(rows[0], [(1, 12)]), marks(rows[1], [(1, 4)])]), geometry)
    assert torch.equal(torch.stack(expanded, -1), torch.tensor([entries(levels, 17, geometry) for levels in ([1, 0, 0, 0], [0, 0, 1, 0])]))
    collapsed = collapse(as_layout(rows), torch.cat([marks(rows[0], [(0, 8)]), marks(rows[1], [(0, 0)])]), geometry)
    assert torch.equal(torch.stack(collapsed, -1), torch.tensor([entries(levels, 17, geometry) for levels in ([1, 0, 1, 1], [1, 1, 1, 0])]))


def test_no_edit_leaves_the_layout() -> None:
    layout = raw(2, 9)
    for edit in (expand, collapse):
        after = edit(layout, torch.zeros(2, 9, dtype=torch.bool), Geometry(4))
        assert torch.equal(after.lod, layout.lod) and torch.equal(after.start, layout.start)


SLOTTED = [1, 0, 1, 1, 2, 2, 2, 2, 0, 1]  # levels of 42 tokens, K = 4, two slots


@pytest.mark.parametrize(
    ("edit", "levels", "chosen", "message"),
    [
        (expand, SLOTTED, (0, 4), "entry 2 of row 0 (level 0) is not the first of a gist: nothing to expand"),
        (expand, SLOTTED, (1, 2), "entry 1 of row 0 (level 1) is not the first of a gist: nothing to expand"),
        (collapse, SLOTTED, (0, 5), "entry 3 of row 0 (level 0, token 5) does not begin 4 siblings: nothing to collapse"),
        (collapse, SLOTTED, (1, 0), "entry 0 of row 0 (level 1, token 0) does not begin 4 siblings"),  # its sibling is expanded
        (collapse, SLOTTED, (1, 8), "entry 6 of row 0 (level 1, token 8) does not begin"),  # not the first of them
        (collapse, SLOTTED, (1, 36), "entry 16 of row 0 (level 1, token 36) does not begin"),
        (collapse, SLOTTED, (0, 40), "entry 18 of row 0 (level 0, token 40) does not begin"),  # the block is incomplete
        (collapse, SLOTTED, (2, 16), "entry 10 of row 0 (level 2, token 16) does not begin"),
        (collapse, [1, 1, 1, 0], (1, 0), "entry 0 of row 0 (level 1, token 0) does not begin"),  # the last sibling is expanded
        (collapse, [0, 1, 1, 1, 1], (1, 4), "entry 4 of row 0 (level 1, token 4) does not begin"),  # of two parents
        (collapse, [0, 0], (0, 2), "entry 2 of row 0 (level 0, token 2) does not begin"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(edit, levels: list[int], chosen: Entry, message: str) -> None:
    geometry = Geometry(4, 2)
    row = entries(levels, 4 * len(levels) + 2, geometry)
    with pytest.raises(ValueError) as refused:
        edit(as_layout([row]), marks(row, [chosen]), geometry)
    assert str(refused.value).startswith(message)


def test_tokens_in_the_place_of_the_last_sibling_are_not_it() -> None:
    row = entries([1, 1, 1, 0], 16, Geometry(4))
    with pytest.raises(ValueError, match="entry 0 of row 0 .* does not begin 4 siblings"):
        collapse(as_layout([row]), marks(row, [(1, 0)]), Geometry(4))


@pytest.mark.parametrize("edit", [expand, collapse])
def test_rows_that_would_differ_in_width_are_refused(edit) -> None:
    row = entries([1, 0], 8, Geometry(4))
    layout = Layout(*(t.repeat(2, 1) for t in as_layout([row])))
    chosen = torch.cat([marks(row, [(1, 0)] if edit is expand else [(0, 4)]), marks(row, [])])
    with pytest.raises(ValueError, match=r"different widths: \[\d+, \d+\]"):
        edit(layout, chosen, Geometry(4))
