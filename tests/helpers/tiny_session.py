"""What the tests of sessions on disk share: a session of known content, reopening it, being refused it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mc.session.disk_tree import DiskTree
from nanochat.common import UserError
from tests.helpers.tiny_tree import MANIFEST, SMALL, World, world

WORLD = world(SMALL, 400)
LENGTH = 203  # 50 blocks and 3 tokens
COMMITTED = 200
DATA = ["tokens.bin", "lod1.bin", "lod2.bin", "lod3.bin", "blocks.bin"]


def start(folder: Path, what: World = WORLD, length: int = LENGTH) -> DiskTree:
    tree = DiskTree.create(folder, MANIFEST, what.spec)
    tree.append(*what.piece(0, length))
    return tree


def reopened(folder: Path, length: int, what: World = WORLD, repair: bool = False) -> int:
    """Opens a session, which must hold `length` tokens and take more, twice; returns how many bytes were cut."""
    tree = DiskTree.open(folder, MANIFEST, repair=repair)
    cut = tree.cut
    what.assert_holds(tree, length)
    tree.append(*what.piece(length, length + 9))
    tree.close()
    tree = DiskTree.open(folder, MANIFEST, spec=what.spec)
    what.assert_holds(tree, length + 9)
    tree.close()
    return cut


def refused(folder: Path, *words: str, manifest: dict | None = None, **options: object) -> str:
    """Opening fails with one line that has all `words`."""
    with pytest.raises(UserError) as error:
        DiskTree.open(folder, manifest or MANIFEST, **options)
    message = str(error.value)
    assert "\n" not in message and folder.name in message and not [word for word in words if word not in message], message
    return message


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
