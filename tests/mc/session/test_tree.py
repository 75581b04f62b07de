"""Trees of sessions, in RAM and on disk alike, against the content they were given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.layout.layout import Geometry
from mc.session.disk_tree import DiskTree
from mc.session.tree import MegaContextTree, RamTree, TreeSpec
from tests.helpers.tiny_tree import DEEP, MANIFEST, NO_VALUES, SMALL, WIDE, World, world

Make = Callable[[TreeSpec, Path], MegaContextTree]
TREES: dict[str, Make] = {
    "ram": lambda spec, folder: RamTree(spec),
    "disk": lambda spec, folder: DiskTree.create(folder / "tree", MANIFEST, spec),
    "cuda": lambda spec, folder: RamTree(spec, "cuda"),
}
KINDS = ["ram", "disk", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
SMALL_WORLD = world(SMALL, 400)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return TREES[request.param]


def copied(tree: MegaContextTree, folder: Path) -> MegaContextTree:
    return tree.fork(folder / "copy") if isinstance(tree, DiskTree) else tree.copy()


def filled(make: Make, folder: Path, what: World = SMALL_WORLD, length: int = 203) -> MegaContextTree:
    tree = make(what.spec, folder)
    tree.append(*what.piece(0, length))
    return tree


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 5), st.integers(0, 70)), max_size=12).filter(lambda sizes: sum(sizes) <= 400), data=st.data()
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_in_any_pieces_is_read_back(kind: str, sizes: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree, length = TREES[kind](SMALL, Path(folder)), 0
        for size in sizes:
            tree.append(*SMALL_WORLD.piece(length, length + size))
            length += size
            assert tree.length == length
            begin = data.draw(st.integers(0, length))
            end = data.draw(st.integers(begin, length))
            assert torch.equal(tree.tokens(begin, end), SMALL_WORLD.tokens[begin:end])
        SMALL_WORLD.assert_holds(tree, length)
        tree.close()


@pytest.mark.parametrize("spec", [DEEP, WIDE, NO_VALUES], ids=["fp32", "fp16", "no values"])
def test_stored_values_every_dtype_and_wide_tokens(make: Make, tmp_path: Path, spec: TreeSpec) -> None:
    what, length = world(spec, 70_001), 0
    tree = make(spec, tmp_path)
    for end in (1, 32_767, 32_768, 40_000, 65_535, 65_537, 70_001):
        tree.append(*what.piece(length, end))
        length = end
        assert all(tree.nodes(level) == end // 32_768 // (spec.geometry.span(level) // 32_768) for level in spec.value_levels)
    what.assert_holds(tree, length)
    tree.close()


def test_nodes_are_read_in_any_order_and_repeatedly(make: Make, tmp_path: Path) -> None:
    tree = filled(make, tmp_path)
    for index in ([5, 0, 5, 49, 1], [], [49]):
        chosen = torch.tensor(index, dtype=torch.int64)
        read = tree.gists(1, chosen).cpu()
        assert read.dtype == SMALL.dtype and read.shape == (len(index), 2, 3) and torch.equal(read, SMALL_WORLD.gists[0][chosen])
    tree.gists(1, torch.tensor([3])).zero_()  # what was read is the reader's own
    tree.tokens(0, 8).zero_()
    SMALL_WORLD.assert_holds(tree, 203)
    tree.close()


def test_what_was_appended_may_change_afterwards(make: Make, tmp_path: Path) -> None:
    tokens, gists, values = SMALL_WORLD.piece(0, 203)
    mine = tokens.clone(), [rows.clone().requires_grad_() for rows in gists], values
    tree = make(SMALL, tmp_path)
    tree.append(*mine)
    mine[0].zero_()
    for rows in mine[1]:
        rows.data.zero_()
    SMALL_WORLD.assert_holds(tree, 203)
    assert not tree.gists(1, torch.arange(3)).requires_grad
    tree.close()


def test_a_copy_goes_its_own_way(make: Make, tmp_path: Path) -> None:
    tree = filled(make, tmp_path)
    other = copied(tree, tmp_path)
    SMALL_WORLD.assert_holds(other, 203)
    others = world(SMALL, 400, seed=1)
    gists = []
    for level, (mine, theirs) in enumerate(zip(SMALL_WORLD.gists, others.gists, strict=True), 1):
        gists.append(torch.cat([mine[: 203 // 4**level], theirs[203 // 4**level :]]))
    branch = World(SMALL, torch.cat([SMALL_WORLD.tokens[:203], others.tokens[203:]]), gists, [])
    tree.append(*SMALL_WORLD.piece(203, 399))
    other.append(*branch.piece(203, 350))
    SMALL_WORLD.assert_holds(tree, 399)
    branch.assert_holds(other, 350)
    tree.close()
    other.close()


def wrong_appends() -> dict[str, tuple]:
    tokens, gists, values = SMALL_WORLD.piece(203, 270)
    return {
        "tokens is torch.int32": (tokens.int(), gists, values),
        "tokens is torch.int64 (1, 67)": (tokens[None], gists, values),
        "the vocabulary is 0 … 299": (torch.where(tokens == tokens[9], 300, tokens), gists, values),
        "tokens has -1": (torch.where(tokens == tokens[9], -1, tokens), gists, values),
        "gists has 2 levels; the tree has 3": (tokens, gists[:2], values),
        "gists of level 2 is torch.bfloat16 [3, 2, 3]": (tokens, [gists[0], gists[1][:3], gists[2]], values),
        "gists of level 1 is torch.bfloat16 [18, 2, 3]": (tokens, [torch.cat([gists[0], gists[0][:1]]), *gists[1:]], values),
        "gists of level 3 is torch.float32": (tokens, [*gists[:2], gists[2].float()], values),
        "gists of level 1 is torch.bfloat16 [17, 3, 2]": (tokens, [gists[0].mT, *gists[1:]], values),
        "values has 1 levels; the tree has 0": (tokens, gists, [gists[0]]),
    }


@pytest.mark.parametrize("message", wrong_appends())
def test_a_wrong_append_is_refused_and_changes_nothing(make: Make, tmp_path: Path, message: str) -> None:
    tree = filled(make, tmp_path)
    with pytest.raises(ValueError) as refused:
        tree.append(*wrong_appends()[message])
    assert message in str(refused.value)
    SMALL_WORLD.assert_holds(tree, 203)
    tree.append(*SMALL_WORLD.piece(203, 270))
    SMALL_WORLD.assert_holds(tree, 270)
    tree.close()


def test_wrong_values_are_refused(make: Make, tmp_path: Path) -> None:
    what = world(WIDE, 33_000)
    tokens, gists, values = what.piece(0, 33_000)
    tree = make(WIDE, tmp_path)
    for wrong, message in (([], "values has 0 levels"), ([values[0][:, :, :2]], "values of level 5 is torch.float16 [1, 4, 2]")):
        with pytest.raises(ValueError) as refused:
            tree.append(tokens, gists, wrong)
        assert message in str(refused.value) and tree.length == 0
    tree.append(tokens, gists, values)
    what.assert_holds(tree, 33_000)
    for level in (4, 6):
        with pytest.raises(ValueError, match=f"level is {level}; the tree has values of levels 5 … 5"):
            tree.values(level, torch.arange(1))
    tree.close()


READS = {
    "level is 0": lambda tree: tree.nodes(0),
    "level is 4": lambda tree: tree.gists(4, torch.arange(0)),
    "level is 1; the tree has values of levels none": lambda tree: tree.values(1, torch.arange(1)),
    "range 5 … 204": lambda tree: tree.tokens(5, 204),
    "range -1 … 4": lambda tree: tree.tokens(-1, 4),
    "range 5 … 4:": lambda tree: tree.tokens(5, 4),
    "index has 0 … 50; level 1 has 50 nodes": lambda tree: tree.gists(1, torch.tensor([0, 50])),
    "index has -1 … 3; level 3 has 3 nodes": lambda tree: tree.gists(3, torch.tensor([3, -1])),
    "index is torch.int32": lambda tree: tree.gists(1, torch.tensor([3], dtype=torch.int32)),
    "index is torch.bool": lambda tree: tree.gists(1, torch.ones(50, dtype=torch.bool)),
    "index is torch.int64 (1, 2)": lambda tree: tree.gists(1, torch.tensor([[0, 1]])),
}


@pytest.mark.parametrize("message", READS)
def test_what_is_not_there_cannot_be_read(make: Make, tmp_path: Path, message: str) -> None:
    tree = filled(make, tmp_path)
    with pytest.raises(ValueError) as refused:
        READS[message](tree)
    assert message in str(refused.value)
    tree.close()


def test_an_empty_tree(make: Make, tmp_path: Path) -> None:
    tree = make(SMALL, tmp_path)
    SMALL_WORLD.assert_holds(tree, 0)
    tree.append(*SMALL_WORLD.piece(0, 0))
    tree.save()
    SMALL_WORLD.assert_holds(tree, 0)
    assert tree.gists(3, torch.arange(0)).shape == (0, 2, 3)
    tree.close()


def test_ram_keeps_room_for_what_comes() -> None:
    """One token at a time is copied a few times, not once for each that follows."""
    tree, moves, place = RamTree(SMALL), 0, 0
    what = world(SMALL, 3000)
    for length in range(3000):
        tree.append(*what.piece(length, length + 1))
        moves += tree._tokens._buffer.data_ptr() != place
        place = tree._tokens._buffer.data_ptr()
    what.assert_holds(tree, 3000)
    assert moves < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"max_lod": 0}, "max_lod is 0"),
        ({"max_lod": 31}, "max_lod is 31"),
        ({"value_width": -1}, "value_width is -1"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 2**31 + 1}, "vocab_size is 2147483649"),
        ({"dtype": torch.int32}, "dtype is torch.int32"),
    ],
)
def test_a_spec_out_of_range_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("spec", [SMALL, DEEP, WIDE, NO_VALUES])
def test_a_spec_is_what_it_describes(spec: TreeSpec) -> None:
    assert TreeSpec.from_description(spec.describe()) == spec


@pytest.mark.parametrize(("block_size", "level"), [(2, 15), (8, 5), (32, 3), (128, 3), (32_768, 1)])
def test_values_are_stored_where_recomputing_them_would_read_too_much(block_size: int, level: int) -> None:
    spec = replace(SMALL, geometry=Geometry(block_size))
    assert spec.stored_values_from == level
    assert block_size**level >= 32_768 > block_size ** (level - 1)
