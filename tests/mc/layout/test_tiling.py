"""Edits against what they mean, node by node, and sequences of them: always legal, never a token lost."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.layout.layout import Geometry, Layout, check
from mc.layout.tiling import Edit, Editor, Tiling, extended, raw
from tests.helpers.tiny_memory import entries, random_levels
from tests.helpers.tiny_tilings import (
    Entry,
    as_tiling,
    assert_source,
    children,
    families,
    gists,
    histories,
    node,
    random_tiling,
    replaced,
    rows,
)


@settings(max_examples=150, deadline=None)
@given(histories())
def test_any_sequence_of_edits_is_what_it_means_and_legal(history) -> None:
    geometry, length, max_lod, recent, rng = history
    editor = Editor(geometry, max_lod)
    tiling = random_tiling(rng, geometry, length, max_lod, recent)
    row, limit = rows(tiling), max(0, length - recent) // geometry.block_size * geometry.block_size
    for _ in range(6):
        nodes = [Edit(True, *n) for n in gists(row, geometry)]
        nodes += [Edit(False, *n) for n in families(row, geometry, max_lod, limit) if n not in [(e.level - 1, e.start) for e in nodes]]
        apart: list[Edit] = []
        for edit in rng.sample(nodes, min(5, len(nodes))):
            end = edit.start + geometry.span(edit.level)
            if len(row) < 3000 and all(end <= e.start or e.start + geometry.span(e.level) <= edit.start for e in apart):
                apart.append(edit)
        after, source = editor.apply(tiling, apart)
        for edit in apart:
            parent, family = node(edit.level, edit.start, geometry), children(edit.level, edit.start, geometry)
            row = replaced(row, parent, family) if edit.expand else replaced(row, family, parent)
        assert rows(after) == row
        assert_source(tiling, after, source)
        editor.check(after, length, recent)
        check(Layout(*(torch.from_numpy(part)[None] for part in after)), geometry, end=length, recent=recent, max_lod=max_lod)
        tiling = after


@settings(max_examples=100, deadline=None)
@given(histories())
def test_nodes_and_families_are_those_of_the_definition(history) -> None:
    geometry, length, max_lod, recent, rng = history
    editor, tiling = Editor(geometry, max_lod), random_tiling(rng, geometry, length, max_lod, recent)
    row = rows(tiling)
    assert [row[i] for i in editor.nodes(tiling)] == gists(row, geometry)
    for limit in (length, max(0, length - recent), length // 2):
        found = [(level + 1, start) for level, start in (row[i] for i in editor.families(tiling, limit))]
        assert found == families(row, geometry, max_lod, limit)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_expanding_and_collapsing_again_is_the_identity(history) -> None:
    geometry, length, max_lod, recent, rng = history
    editor, tiling = Editor(geometry, max_lod), random_tiling(rng, geometry, length, max_lod, recent)
    nodes = gists(rows(tiling), geometry)
    chosen = rng.sample(nodes, min(5, len(nodes)))
    expanded, _ = editor.apply(tiling, [Edit(True, *n) for n in chosen])
    again, _ = editor.apply(expanded, [Edit(False, *n) for n in chosen])
    assert rows(again) == rows(tiling)


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 3))
def test_a_tiling_is_checked_as_a_layout_of_one_row_is(history, damages: int) -> None:
    geometry, length, max_lod, recent, rng = history
    tiling = random_tiling(rng, geometry, length, max_lod, recent)
    row = rows(tiling)
    for _ in range(damages if row else 0):
        place, kind = rng.randrange(len(row)), rng.randrange(4)
        level, start = row[place]
        if kind == 0:
            row[place] = (max(-1, level + rng.choice([-1, 1])), start)
        elif kind == 1:
            row[place] = (level, start + rng.choice([-1, 1, geometry.stride(max(level, 0))]))
        elif kind == 2 and len(row) > 1:
            del row[place]
        else:
            row.insert(place, row[place])
    recent += rng.choice([0, 0, geometry.block_size])
    tiling = as_tiling(row)
    try:
        check(Layout(*(torch.from_numpy(part)[None] for part in tiling)), geometry, end=length, recent=recent, max_lod=max_lod)
    except ValueError as error:
        with pytest.raises(ValueError) as refused:
            Editor(geometry, max_lod).check(tiling, length, recent)
        assert str(refused.value) == str(error)
    else:
        Editor(geometry, max_lod).check(tiling, length, recent)


@pytest.mark.parametrize(
    "row",
    [
        [(1, 0), (0, 2), (0, 3), (0, 4), (0, 5), (1, 6), (0, 8)],  # half of one node and half of another: as many as one has
        [(0, 0), (0, 1), (1, 2), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8)],  # no node begins
        [(1, 0), (1, 2), (0, 4), (0, 5), (0, 6), (1, 7)],  # at no multiple of its stride
        [(1, 0), (0, 2), (0, 3), (1, 4), (1, 6), (0, 8)],
    ],
)
def test_a_node_of_which_slots_are_missing_is_refused(row: list[Entry]) -> None:
    with pytest.raises(ValueError, match=r"alignment: entry \d+ of row 0"):
        Editor(Geometry(4, 2), 1).check(as_tiling(row), 9, 0)


def test_no_edit_leaves_the_tiling() -> None:
    tiling, source = Editor(Geometry(4), 2).apply(raw(0, 9), [])
    assert rows(tiling) == [(0, token) for token in range(9)] and source.tolist() == list(range(9))


def test_tokens_are_added_raw() -> None:
    assert rows(extended(as_tiling([(1, 0), (0, 4)]), 5, 7)) == [(1, 0), (0, 4), (0, 5), (0, 6)]
    assert rows(extended(raw(0, 0), 0, 2)) == [(0, 0), (0, 1)]


SLOTTED = [1, 0, 1, 1, 2, 2, 2, 2, 0, 1]  # levels of 42 tokens, K = 4, two slots


@pytest.mark.parametrize(
    ("levels", "edits", "wrong"),
    [
        (SLOTTED, [Edit(True, 1, 4)], 0),  # it is expanded already
        (SLOTTED, [Edit(True, 1, 2)], 0),  # a slot, no node
        (SLOTTED, [Edit(True, 1, 16)], 0),  # of another level
        (SLOTTED, [Edit(True, 1, 44)], 0),  # beyond the end
        (SLOTTED, [Edit(False, 1, 5)], 0),  # not aligned
        (SLOTTED, [Edit(False, 2, 0)], 0),  # a child is expanded itself
        (SLOTTED, [Edit(False, 2, 8)], 0),  # of two parents
        (SLOTTED, [Edit(False, 2, 36)], 0),  # siblings are missing
        (SLOTTED, [Edit(False, 1, 40)], 0),  # the block is incomplete
        (SLOTTED, [Edit(False, 1, 0)], 0),  # it is collapsed already
        (SLOTTED, [Edit(False, 1, 4), Edit(True, 1, 4)], 1),
        (SLOTTED, [Edit(True, 1, 0), Edit(True, 1, 0)], 1),  # twice
        ([1, 1, 1, 1], [Edit(True, 1, 4), Edit(False, 2, 0)], 0),  # a child of what is made
        ([1, 1, 1, 0], [Edit(False, 2, 0)], 0),  # tokens in the place of the last sibling
        ([0, 0], [Edit(False, 1, 2)], 0),
        ([], [Edit(True, 1, 0)], 0),
    ],
)
def test_an_edit_that_cannot_be_is_refused(levels: list[int], edits: list[Edit], wrong: int) -> None:
    geometry = Geometry(4, 2)
    tiling = as_tiling(entries(levels, 4 * len(levels) + 2, geometry))
    before = rows(tiling)
    with pytest.raises(ValueError) as refused:
        Editor(geometry, 3).apply(tiling, edits)
    assert str(refused.value).startswith(f"invalid {edits[wrong]}: ")
    assert str(refused.value).endswith("is not in the layout, or another edit overlaps it")
    assert rows(tiling) == before


@pytest.mark.parametrize("level", [-1, 0, 3])
def test_an_edit_of_a_level_there_is_not_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=rf"level={level}, start=0\): expected a level from 1 to 2"):
        Editor(Geometry(4), 2).apply(raw(0, 16), [Edit(False, level, 0)])


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling(np.zeros(3, np.int64), np.arange(4)), r"expected two int64 arrays \[W\], got lod \(3,\) int64 and start \(4,\) int64"),
        (Tiling(np.zeros(4, np.int32), np.arange(4)), r"lod \(4,\) int32"),
        (Tiling(np.zeros((1, 4), np.int64), np.arange(4)[None]), r"lod \(1, 4\) int64"),
        (raw(0, 3), "contiguity: row 0 ends at token 3, not at 4"),
        (raw(0, 0), "contiguity: no entry covers the tokens 0 … 3"),
        (Tiling(np.array([2]), np.array([0])), "existence: entry 0 of row 0 .* is above the tree's level 1"),
        (Tiling(np.array([1]), np.array([0])), "recency: entry 0 of row 0 .* is a gist of the last 2 tokens"),
    ],
)
def test_an_illegal_tiling_is_refused(tiling: Tiling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Editor(Geometry(4), 1).check(tiling, 4, 2)


def test_levels_that_no_history_reaches_change_nothing() -> None:
    geometry = Geometry(32)
    levels = random_levels(random.Random(1), 70, 32, 2)
    tiling = as_tiling(entries(levels, 70 * 32 + 5, geometry))
    low, high = Editor(geometry, 4), Editor(geometry, 60)
    high.check(tiling, 70 * 32 + 5, 0)
    assert low.families(tiling, 2240).tolist() == high.families(tiling, 2240).tolist()


def test_edited_tilings_are_int64_as_layouts_are() -> None:
    tiling, source = Editor(Geometry(4, 2), 1).apply(raw(0, 9), [Edit(False, 1, 4)])
    assert tiling.lod.dtype == tiling.start.dtype == source.dtype == np.int64
