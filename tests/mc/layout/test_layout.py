"""Layouts against their definition written out entry by entry, and every rule that makes one illegal."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.layout.layout import Geometry, Layout, check, entry_ends, from_levels, tree_levels, widths
from tests.helpers.layouts import raw, to_levels
from tests.helpers.tiny_memory import as_layout, entries, random_levels

ROOM = 3_000  # blocks at most in a drawn layout


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    block_size = draw(st.sampled_from([2, 3, 4, 5, 8, 16, 32]))
    return Geometry(block_size, draw(st.sampled_from([s for s in (1, 2, 4) if block_size % s == 0 and s < block_size])))


@st.composite
def tilings(draw: st.DrawFn) -> tuple[Geometry, int, int, list[list[int]]]:
    """(geometry, tokens, highest level, rows of levels), with incomplete groups and a raw tail."""
    geometry, max_lod = draw(geometries()), draw(st.integers(0, 3))
    group = geometry.block_size ** max(max_lod - 1, 0)
    blocks = draw(st.integers(1, min(ROOM, 2 * group + geometry.block_size)))
    tail = draw(st.integers(0, 2 * geometry.block_size))
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = [random_levels(rng, blocks, geometry.block_size, max_lod) for _ in range(max(1, min(12, 3_000 // blocks)))]
    return geometry, blocks * geometry.block_size + tail, max_lod, rows


@settings(max_examples=150, deadline=None)
@given(tilings())
def test_a_layout_is_its_definition_and_legal_and_gives_its_levels_back(tiling) -> None:
    geometry, length, max_lod, rows = tiling
    width = widths(torch.tensor(rows), length, geometry)
    for levels, W in zip(rows, width.tolist(), strict=True):
        expected = entries(levels, length, geometry)
        assert len(expected) == W
        layout = from_levels(torch.tensor([levels]), length, W, geometry)
        assert torch.equal(torch.stack(layout, -1)[0], torch.tensor(expected))
        blocks = len(levels)
        tail = length - blocks * geometry.block_size
        check(layout, geometry, end=length, max_entries=W, recent=tail, max_lod=max_lod)
        assert to_levels(layout, blocks, geometry).tolist() == [levels]
        ends = entry_ends(layout, geometry)[0].tolist()
        assert ends == [start // geometry.span(lod) * geometry.span(lod) + geometry.span(lod) for lod, start in expected]


def test_rows_of_one_width_are_made_at_once() -> None:
    geometry = Geometry(4, 2)
    levels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0]])
    layout = from_levels(levels, 22, int(widths(levels, 22, geometry)[0]), geometry)
    check(layout, geometry, end=22, recent=2)
    for row, each in enumerate(levels.tolist()):
        assert torch.stack([layout.lod[row], layout.start[row]], -1).tolist() == [list(e) for e in entries(each, 22, geometry)]


def test_what_an_entry_predicts() -> None:
    """K = 2: the gist of the tokens 8 … 15, of 16 … 19, of 20 and 21, and two tokens: each predicts the token after itself."""
    layout = as_layout([[(3, 0), (3, 8), (2, 16), (1, 20), (0, 22), (0, 23)]])
    check(layout, Geometry(2), end=24)
    assert entry_ends(layout, Geometry(2)).tolist() == [[8, 16, 20, 22, 23, 24]]
    # K = 4 with two slots: a gist of 16 tokens, one of 4, two tokens. Both slots know the whole node, and predict what follows it.
    layout = as_layout([[(2, 0), (2, 8), (1, 16), (1, 18), (0, 20), (0, 21)]])
    check(layout, Geometry(4, 2), end=22)
    assert entry_ends(layout, Geometry(4, 2)).tolist() == [[16, 16, 20, 20, 21, 22]]
    # K = 8 with four slots.
    layout = as_layout([[(0, t) for t in range(8)] + [(1, 8), (1, 10), (1, 12), (1, 14)]])
    check(layout, Geometry(8, 4), end=16)
    assert entry_ends(layout, Geometry(8, 4)).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 16, 16, 16, 16]]


def test_raw() -> None:
    layout = raw(2, 5)
    assert layout.lod.tolist() == [[0] * 5] * 2 and layout.start.tolist() == [[0, 1, 2, 3, 4]] * 2
    check(layout, Geometry(4), end=5, recent=5, max_lod=0)


LEGAL = [(1, 0), (0, 4), (0, 5), (0, 6), (0, 7), (1, 8), (0, 12), (0, 13)]  # of 14 tokens, K = 4
ILLEGAL = [
    ("contiguity: entry 0 of row 1 (level 1, token 4) does not begin where", [LEGAL, [(1, 4), *LEGAL[1:]]], {}),
    ("contiguity: entry 1 of row 1 (level 0, token 5) does not begin where", [LEGAL, [(1, 0), (0, 5), *LEGAL[2:]]], {}),
    ("contiguity: entry 3 of row 1 (level 0, token 5) does not begin where", [LEGAL, [*LEGAL[:3], (0, 5), *LEGAL[4:]]], {}),
    ("contiguity: entry 0 of row 0 (level 1, token 0) does not begin where", [LEGAL], {"begin": 4}),
    ("contiguity: row 1 ends at token 8, not at 14", [LEGAL, [(0, t) for t in range(8)]], {}),
    ("contiguity: no entry covers the tokens 0 … 13", [[]], {}),
    ("alignment: entry 1 of row 1 (level 1, token 1) does not begin", [LEGAL, [(0, 0), (1, 1), *[(0, t) for t in range(5, 11)]]], {}),
    (
        "alignment: entry 0 of row 0 (level 1, token 0) belongs to a node of which a slot",
        [[(1, 0), (0, 2), (0, 3)]],
        {"slots": 2, "end": 4},
    ),
    (
        "alignment: entry 2 of row 0 (level 1, token 2) belongs to a node of which a slot",
        [[(0, 0), (0, 1), (1, 2)]],
        {"slots": 2, "end": 4},
    ),
    ("alignment: entry 0 of row 0 (level 2, token 0) belongs to", [[(2, 0), (1, 8), (1, 10), (1, 12), (1, 14)]], {"slots": 2, "end": 16}),
    ("alignment: entry 0 of row 0 (level 1, token 2) belongs to", [[(1, 2), (0, 4)]], {"slots": 2, "begin": 2, "end": 5}),
    ("existence: entry 5 of row 1 (level -1, token 8) has a negative level", [LEGAL, [*LEGAL[:5], (-1, 8), *LEGAL[6:]]], {}),
    ("existence: entry 0 of row 0 (level 1, token 0) is above the tree's level 0", [LEGAL], {"max_lod": 0}),
    ("existence: entry 3 of row 0 (level 1, token 12) stands for tokens beyond 14", [[(1, 0), (1, 4), (1, 8), (1, 12)]], {}),
    ("existence: entry 5 of row 1 (level 40, token 8) stands for tokens beyond 14", [LEGAL, [*LEGAL[:5], (40, 8), *LEGAL[6:]]], {}),
    ("recency: entry 5 of row 0 (level 1, token 8) is a gist of the last 3 tokens", [LEGAL], {"recent": 3}),
    ("budget: 8 entries, of which entry 7 is the first over the 7 allowed", [LEGAL], {"max_entries": 7}),
]


@pytest.mark.parametrize(("message", "rows", "rules"), ILLEGAL, ids=[message[:44] for message, *_ in ILLEGAL])
def test_an_illegal_entry_is_named(message: str, rows: list, rules: dict[str, int]) -> None:
    rules = {"end": 14} | rules
    geometry = Geometry(4, rules.pop("slots", 1))
    with pytest.raises(ValueError) as refused:
        check(as_layout(rows), geometry, **rules)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_the_layout_that_these_differ_from_is_legal() -> None:
    check(as_layout([LEGAL, LEGAL]), Geometry(4), end=14, max_lod=1, recent=2, max_entries=8)
    check(as_layout([LEGAL[5:]]), Geometry(4), begin=8, end=14)
    check(as_layout([[]]), Geometry(4), begin=3, end=3)


def test_what_is_no_layout_is_refused() -> None:
    whole = as_layout([LEGAL])
    for layout in (
        Layout(whole.lod, whole.start[:, :-1]),
        Layout(whole.lod.float(), whole.start),
        Layout(whole.lod[0], whole.start[0]),
    ):
        with pytest.raises(ValueError, match=r"^expected two integer tensors \[B,W\], got lod .* and start .*$"):
            check(layout, Geometry(4), end=14)


@pytest.mark.parametrize(
    ("block_size", "slots", "knob"), [(1, 1, "block_size"), (8, 0, "gist_slots"), (8, 3, "gist_slots"), (4, 4, "gist_slots")]
)
def test_a_geometry_that_cannot_be_is_refused(block_size: int, slots: int, knob: str) -> None:
    with pytest.raises(ValueError, match=f"^{knob} is "):
        Geometry(block_size, slots)


@pytest.mark.parametrize(
    ("length", "gisted", "max_lod", "expected"),
    [(20, 20, 3, (20, 5, 1)), (20, 15, 3, (20, 3)), (64, 64, 3, (64, 16, 4, 1)), (64, 64, 1, (64, 16)), (3, 3, 2, (3,)), (64, 0, 2, (64,))],
)
def test_levels_of_a_tree(length: int, gisted: int, max_lod: int, expected: tuple[int, ...]) -> None:
    assert tree_levels(length, gisted, Geometry(4, 2), max_lod) == expected
