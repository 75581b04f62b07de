"""The corpus of the running Python: real, stable, split."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nanochat.common import UserError
from nanochat.data import local_corpus
from nanochat.data.sources import open_source


def test_corpus_is_about_thirty_megabytes_of_text_in_two_splits(base: Path) -> None:
    source = open_source("local")
    train, val = list(source.documents("train")), list(source.documents("val"))
    size = {"train": sum(len(text.encode()) for text in train), "val": sum(len(text.encode()) for text in val)}
    assert 10e6 < size["train"] + size["val"] <= local_corpus.CORPUS_BYTES
    assert 0.015 < size["val"] / (size["train"] + size["val"]) < 0.08
    assert len({*train, *val}) == len(train) + len(val), "a document came twice"
    described = source.describe()
    assert described["documents"] == len(train) + len(val) and described["text_bytes"] == size["train"] + size["val"]
    library = Path(sysconfig.get_path("stdlib"))
    assert (library / "argparse.py").read_bytes().decode() in {*train, *val}


def test_collected_once_and_the_same_each_time(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_corpus, "CORPUS_BYTES", 300_000)
    first = open_source("local")
    assert open_source("local").fingerprint == first.fingerprint
    path = first.files[0].path
    paths = pq.read_table(path)["path"].to_pylist()
    assert not any("test" in Path(name).parts for name in paths), "tests come after the library itself"
    # A package that comes or goes between two stages changes nothing.
    monkeypatch.setattr(local_corpus, "installed_texts", lambda: iter([Path(os.__file__)]))
    assert open_source("local").fingerprint == first.fingerprint
    assert list(open_source("local").documents("train")) == list(first.documents("train"))
    monkeypatch.undo()
    monkeypatch.setattr(local_corpus, "CORPUS_BYTES", 300_000)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "another"))
    assert pq.read_table(open_source("local").files[0].path).equals(pq.read_table(path)), "another base folder, the same corpus"


def test_files_that_are_not_text_are_counted(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a.py": b"x = 1\n", "b.py": "# Bär".encode("latin-1"), "c.txt": b"", "d.py": b"x = 1\n", "e.md": b"# e"}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(local_corpus, "installed_texts", lambda: iter(sorted(tmp_path / name for name in texts)))
    described = open_source("local").describe()
    assert {key: described[key] for key in described if key.startswith("skipped")} == {
        "skipped_not_utf8": 1,
        "skipped_empty": 1,
        "skipped_duplicate": 1,
    }
    assert described["documents"] == 2


def test_nothing_hidden_nothing_of_ours(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    cache = library / "cache"
    for name in ("z.py", "a/b.txt", "test/t.py", ".env", ".secret/a.py", "x.dist-info/a.txt", "cache/c.py", "d.so", "site-packages/p.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("x")
    (library / "link.py").symlink_to(library / "z.py")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(cache))
    monkeypatch.setattr(local_corpus.sysconfig, "get_path", lambda kind: str(library / "site-packages" if kind == "purelib" else library))
    assert [str(path.relative_to(library)) for path in local_corpus.installed_texts()] == [
        "z.py",
        "a/b.txt",
        "test/t.py",
        "site-packages/p.py",
    ]


def test_half_a_corpus_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_corpus, "CORPUS_BYTES", 100_000)
    path = open_source("local").files[1].path
    path.unlink()
    with pytest.raises(UserError, match="delete its folder"):
        open_source("local")


def test_base_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="NANOCHAT_BASE_DIR"):
        open_source("local")
