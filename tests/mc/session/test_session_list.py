"""Listing and deleting the sessions of a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mc.session.disk_tree import DiskTree
from mc.session.files import delete_session, list_sessions
from nanochat.common import UserError
from tests.helpers.tiny_session import LENGTH, WORLD, contents, reopened, start
from tests.helpers.tiny_tree import MANIFEST


def test_no_folder_no_sessions(tmp_path: Path) -> None:
    assert list_sessions(tmp_path / "absent") == list_sessions(tmp_path) == []


def test_what_is_listed(tmp_path: Path) -> None:
    for name, length in (("first", LENGTH), ("second", 0), ("third", 5)):
        start(tmp_path / name, length=length).close()
        for path in (tmp_path / name).iterdir():
            os.utime(path, (length, 1e9 + length))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tokens.bin").write_bytes(b"mine")
    start(tmp_path / "x").folder.rename(tmp_path / ".hidden")
    (tmp_path / "file").write_text("mine")
    listed = list_sessions(tmp_path)
    assert [(info.name, info.tokens, info.modified) for info in listed] == [
        ("first", LENGTH, 1e9 + LENGTH),
        ("third", 5, 1e9 + 5),
        ("second", 0, 1e9),
    ]
    for info in listed:
        assert info.manifest == MANIFEST and info.damaged is None
        assert info.bytes == sum(len(data) for data in contents(tmp_path / info.name).values())


def test_an_open_session_is_listed_as_it_lies(tmp_path: Path) -> None:
    tree = start(tmp_path / "talk")
    before = time.time() - 5
    (info,) = list_sessions(tmp_path)
    assert info.tokens == 200 and info.modified > before  # the incomplete block comes with the next save
    tree.save()
    assert list_sessions(tmp_path)[0].tokens == LENGTH
    tree.append(*WORLD.piece(LENGTH, 210))
    assert list_sessions(tmp_path)[0].tokens == 208
    tree.close()


def test_a_damaged_session_is_listed_too(tmp_path: Path) -> None:
    for name in ("manifest.json", "blocks.bin", "tail.bin"):
        start(tmp_path / name).close()
        (tmp_path / name / name).write_bytes(b"{}")
    start(tmp_path / "lacking").close()
    (tmp_path / "lacking" / "blocks.bin").unlink()
    listed = {info.name: info for info in list_sessions(tmp_path)}
    assert {name: info.tokens for name, info in listed.items()} == {"manifest.json": 0, "blocks.bin": 0, "tail.bin": 200, "lacking": 0}
    assert "manifest.json is not what was written" in listed["manifest.json"].damaged
    assert listed["manifest.json"].manifest == {} and listed["blocks.bin"].manifest == MANIFEST


def test_deleting(tmp_path: Path) -> None:
    for name in ("one", "two"):
        start(tmp_path / name).close()
    delete_session(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    reopened(tmp_path / "two", LENGTH)
    start(tmp_path / "one").close()
    (tmp_path / "one" / "manifest.json").write_text("damaged")
    delete_session(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_an_open_session_is_not_deleted(tmp_path: Path) -> None:
    tree = start(tmp_path / "talk")
    with pytest.raises(UserError, match="already open in this process"):
        delete_session(tmp_path, "talk")
    WORLD.assert_holds(tree, LENGTH)
    tree.close()
    reopened(tmp_path / "talk", LENGTH)


def test_what_is_no_session_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tokens.bin").write_bytes(b"mine")
    start(tmp_path / "talk").close()
    for name in ("notes", "absent"):
        with pytest.raises(UserError, match=f"no session {name} in .*; nothing was deleted"):
            delete_session(tmp_path, name)
    (tmp_path / "root").mkdir()
    for name in ("../talk", ".", "..", "", "/", str(tmp_path / "talk")):
        with pytest.raises(ValueError, match="invalid session name"):
            delete_session(tmp_path / "root", name)
    assert (tmp_path / "notes" / "tokens.bin").read_bytes() == b"mine"
    DiskTree.open(tmp_path / "talk", MANIFEST).close()


def test_a_link_to_a_session_is_not_deleted(tmp_path: Path) -> None:
    start(tmp_path / "talk").close()
    (tmp_path / "link").symlink_to(tmp_path / "talk")
    with pytest.raises(UserError, match="is a link; delete the link by hand"):
        delete_session(tmp_path, "link")
    assert (tmp_path / "link").is_symlink()
    reopened(tmp_path / "talk", LENGTH)
