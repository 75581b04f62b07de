"""The files of a dataset: order, links as caches make them, circles, what cannot be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.data.file_walk import find_files
from nanochat.data.left_out import LeftOut


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def found(pattern: Path | str) -> tuple[list[str], str]:
    left_out = LeftOut()
    files, _ = find_files(str(pattern), left_out)
    assert all(file.path.stat().st_size == file.size and file.path.resolve() == Path(file.real) for file in files)
    return [file.name for file in files], left_out.line


def test_the_order_is_that_of_paths(tmp_path: Path) -> None:
    names = ["a/z.txt", "a.b/c.txt", "a b.txt", "a-b/x.txt", "B.txt", "a/.hidden", ".git/x.txt", "a/b/c.txt"]
    for name in names:
        write(tmp_path / name)
    by_path = sorted(path for path in tmp_path.rglob("*") if path.is_file() and "/." not in str(path.relative_to(tmp_path.parent)))
    assert found(tmp_path) == ([str(path.relative_to(tmp_path)) for path in by_path], "")
    assert "a/z.txt" in found(tmp_path)[0] and len(by_path) == 6


def test_links_to_files_and_folders(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(tmp_path / "blobs" / "d3adbeef")
    write(tmp_path / "elsewhere" / "deep" / "a.txt")
    link(data / "train.jsonl", "../blobs/d3adbeef")  # as in the cache of the hub, and DVC's
    link(data / "annexed.jsonl", tmp_path / "blobs" / "d3adbeef")
    link(data / "sub", tmp_path / "elsewhere")
    assert found(data) == (["annexed.jsonl", "sub/deep/a.txt", "train.jsonl"], "")
    link(tmp_path / "linked root", data)
    assert found(tmp_path / "linked root")[0] == found(data)[0]
    assert found(data / "train.jsonl")[0] == ["train.jsonl"]
    assert found(f"{data}/*.jsonl")[0] == ["annexed.jsonl", "train.jsonl"]


def test_links_in_a_circle_and_broken_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data / "a" / "a.txt")
    link(data / "a" / "up", "..")
    link(data / "above", tmp_path)
    link(data / "self", "self")
    link(data / "ping", "pong")
    link(data / "pong", "ping")
    link(data / "annexed.txt", ".git/annex/objects/gone")
    names, lost = found(data)
    assert names == ["a/a.txt"]
    assert lost.startswith("6 files left out:") and "annexed.txt (broken link)" in lost
    assert "ping, pong, self and 2 more (link in a circle)" in lost
    for i in range(4):  # with so many circles `glob` would not come to an end
        link(data / "a" / f"again{i}", data)
    assert found(f"{data}/**/*.txt")[0] == ["a.txt"]
    shutil.rmtree(data)
    write(data / "a" / "a.txt")
    write(tmp_path / "ring" / "a.txt")
    link(tmp_path / "data" / "ring1", tmp_path / "ring")
    link(tmp_path / "ring" / "ring2", tmp_path / "data")
    assert found(data)[0] == ["a/a.txt", "ring1/a.txt"]


def test_a_folder_is_read_once_and_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path / "z" / "b.txt")
    link(tmp_path / "a", "z")
    link(tmp_path / "c", tmp_path / "z")
    assert found(tmp_path) == (["z/b.txt"], "2 files left out: a, c (link to what is read already)")


def test_the_base_folder_is_no_text(base: Path) -> None:
    write(base / "report" / "report.md")
    write(base / "data" / "mine" / "a.txt")
    write(base.parent / "b.txt")
    assert found(base.parent) == (["b.txt"], "")
    assert found(base / "data" / "mine") == (["a.txt"], ""), "but a folder of it may be"


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("part-1/a.txt", "part-2/deep/b.txt", "part-2/c.txt", "other/d.txt", "e.txt"):
        write(tmp_path / name)
    assert found(f"{tmp_path}/part-*")[0] == ["part-1/a.txt", "part-2/c.txt", "part-2/deep/b.txt"], "folders that match are read"
    assert found(f"{tmp_path}/*")[0] == ["e.txt"], "but not beside files"
    every = ["e.txt", "other/d.txt", "part-1/a.txt", "part-2/c.txt", "part-2/deep/b.txt"]
    assert found(f"{tmp_path}/**/*.txt")[0] == found(f"{tmp_path}/**")[0] == found(f"{tmp_path}/**/**/*.txt")[0] == every
    assert found(f"{tmp_path}/**/part-2/*")[0] == ["c.txt"] and found(f"{tmp_path}/**/part-?/**/*.txt")[0] == every[2:]
    monkeypatch.chdir(tmp_path)
    assert found("**/*.txt")[0] == every
    assert found("part-*/*.txt")[0] == ["part-1/a.txt", "part-2/c.txt"] and found("*.txt")[0] == ["e.txt"]
    assert found("none*") == ([], "")
    write(tmp_path / "[1].txt")
    assert found(tmp_path / "[1].txt")[0] == ["[1].txt"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.txt"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    assert [os.fsencode(file) for file in found(tmp_path)[0]] == [name]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert found(tmp_path) == ([], "1 file left out: pipe.txt (not a regular file)")
    with pytest.raises(UserError, match="pipe.txt is neither a file nor a folder"):
        found(tmp_path / "pipe.txt")


def test_what_else_fits_a_glob_is_named(tmp_path: Path) -> None:
    for name in ("README.md", "data/a.txt"):
        write(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.txt")
    link(tmp_path / "gone.txt", "nowhere")
    lost = "3 files left out: data (folder beside files); gone.txt (broken link); pipe.txt (not a regular file)"
    assert found(f"{tmp_path}/*") == (["README.md"], lost)
    (tmp_path / "README.md").unlink()
    assert found(f"{tmp_path}/*") == (["data/a.txt"], "2 files left out: gone.txt (broken link); pipe.txt (not a regular file)")


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(tmp_path / "gone.jsonl", "blobs/gone")
    with pytest.raises(UserError, match=r"gone.jsonl is a broken link: blobs/gone does not exist"):
        found(tmp_path / "gone.jsonl")
    write(tmp_path / "closed" / "a.txt")
    scandir = os.scandir

    def closed(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")  # chmod does not keep root out
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match="cannot read .*/closed: Permission denied; change its permissions"):
        found(tmp_path)
