"""An open file stays what it was, and one that was cut is noticed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nanochat.checkpoint import open_file
from nanochat.checkpoint.open_file import OpenFile


def test_it_is_hashed_and_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_file, "_CHUNK_BYTES", 1000)
    for size in (0, 1, 999, 1000, 1001, 2500):
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data)
        file = OpenFile(tmp_path / "file")
        assert file.sha256() == hashlib.sha256(data).hexdigest() and file.read() == data and file.bytes == size


def test_it_outlives_its_name_and_is_closed_when_let_go(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    file, opened = OpenFile(path), len(os.listdir("/proc/self/fd"))
    path.unlink()
    path.write_bytes(b"new")
    assert file.read() == b"old"
    del file
    assert len(os.listdir("/proc/self/fd")) == opened - 1


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    file = OpenFile(path)
    os.truncate(path, 4)
    with pytest.raises(OSError, match="file has become shorter"):
        file.read()
