"""What of a folder is read and what is left out: types, columns, encodings, links, names; and that opening stays quick."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import os
import time
from pathlib import Path

import pytest
import zstandard

from nanochat.common import UserError
from nanochat.data.left_out import LeftOut
from nanochat.data.sources import Source, TextFile, open_recorded, open_source

LINES = "".join(json.dumps({"text": f"document {i}", "body": {"de": f"Dokument {i}"}}) + "\n" for i in range(100)).encode()
DOCUMENTS = [f"document {i}" for i in range(100)]


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(name: Path | str, column: str = "text") -> tuple[list[str], str]:
    """All documents, sorted, and the line about what was left out."""
    left_out = LeftOut()
    source = open_source(str(name), column)
    documents = [*source.documents("train", left_out), *source.documents("val", left_out)]
    return sorted(documents), (source.left_out + left_out).line


def refused(name: Path | str, *words: str, column: str = "text") -> None:
    with pytest.raises(UserError) as caught:
        read(name, column)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


FORMS = {
    "a.jsonl.gz": gzip.compress(LINES),
    "a.JSONL.ZST": zstandard.ZstdCompressor().compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.json": LINES,
    "a.json.gz": gzip.compress(json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()),
    "a.csv": b"text\n" + "\n".join(DOCUMENTS).encode() + b"\n",
    "a.tsv.xz": lzma.compress(b"id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(DOCUMENTS)).encode()),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES,
    "a.ndjson": LINES.decode().encode("utf-16"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_a_corpus(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, FORMS[name])
    write(tmp_path / "about.pdf", "x")
    assert read(tmp_path) == (sorted(DOCUMENTS), "1 file left out: about.pdf (unknown type)")
    assert read(tmp_path / name) == (sorted(DOCUMENTS), "")


def test_the_column_of_the_text(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINES)
    assert read(tmp_path, "body.de")[0] == sorted(f"Dokument {i}" for i in range(100))
    first, second = (open_source(str(tmp_path), column) for column in ("text", "body.de"))
    assert first.fingerprint != second.fingerprint and second.describe()["text_column"] == "body.de"
    assert open_recorded({"dataset": str(tmp_path), "text_column": "body.de"}).fingerprint == second.fingerprint
    assert open_recorded({"dataset": str(tmp_path)}).fingerprint == first.fingerprint, "runs of earlier versions recorded none"
    refused(tmp_path, 'line 1: no "content", only text, body.de; name the column of the text with --text-column', column="content")


def test_settings_beside_the_text_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINES)
    before = open_source(str(tmp_path)).fingerprint
    write(tmp_path / "package.json", '{"name": "x", "version": 1}')
    write(tmp_path / "tsconfig.json", "// a comment\n{}")
    write(tmp_path / "empty.json", "[]")
    write(tmp_path / "deep.json", "[" * 100_000)
    write(tmp_path / "labels.csv", "id,label\n1,x\n")
    write(tmp_path / "messages.json", '{"text": {"yes": "ja"}}')
    write(tmp_path / "numbers.json", '{"text": 3}')
    assert open_source(str(tmp_path)).fingerprint == before
    lost = (
        "7 files left out: deep.json (nested too deep); empty.json (empty); "
        'labels.csv with id, label, package.json with name, version (no column "text"); messages.json, numbers.json (no string in "text"); '
        "tsconfig.json (not JSON)"
    )
    assert read(tmp_path)[1] == lost
    (tmp_path / "a.jsonl").unlink()
    refused(tmp_path, "holds no text", lost)
    refused(tmp_path / "labels.csv", 'no "text", only id, label')
    write(tmp_path / "damaged.json.gz", FORMS["a.json.gz"][:-20])
    refused(tmp_path, "damaged.json.gz", "damaged gzip data")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "good " * 100)
    write(tmp_path / "b.txt", ("café über alles, " * 100).encode("latin-1"))
    write(tmp_path / "c.txt", ("good too " * 100).encode("utf-16"))
    documents, lost = read(tmp_path)
    assert lost == "1 file left out: b.txt looks like latin-1 (not UTF-8)"
    assert "".join(documents).count("good") == 200
    refused(tmp_path / "b.txt", "no documents for train", "b.txt looks like latin-1", "UTF-8")
    write(tmp_path / "d.jsonl", b'{"text": "caf\xe9 au lait"}\n{"text": null}\n{"text": "good"}\n{"text": ""}\n')
    assert read(tmp_path)[1].endswith("3 documents left out: 1 in d.jsonl looks like latin-1 (not UTF-8); 2 in d.jsonl (empty)")


def test_empty_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINES)
    for name in ("b.jsonl", "c.txt", "d.parquet", "e.jsonl.zst"):
        write(tmp_path / name, b"")
    assert read(tmp_path) == (sorted(DOCUMENTS), "4 files left out: b.jsonl, c.txt, d.parquet and 1 more (empty)")


def test_a_cache_of_blobs_and_links(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "d3adbeef", LINES)
    for revision in ("abc", "def"):
        link = tmp_path / "snapshots" / revision / "train.jsonl"
        link.parent.mkdir(parents=True)
        link.symlink_to("../../blobs/d3adbeef")
    assert read(tmp_path / "snapshots" / "abc") == (sorted(DOCUMENTS), "")
    assert read(tmp_path / "snapshots" / "abc" / "train.jsonl") == (sorted(DOCUMENTS), "")
    lost = "1 file left out: snapshots/def/train.jsonl (link to what is read already)"
    assert read(tmp_path) == (sorted(DOCUMENTS), lost), "each document once, and the blob is no file of an unknown type"
    another = tmp_path / "another.json"
    another.symlink_to("blobs/d3adbeef")
    parts = [open_source(str(path)).parts("train")[0] for path in (another, link)]
    (first,), (second,) = (part.files for part in parts)
    assert (first.real, first.role) == (second.real, second.role) and parts[0].fingerprint != parts[1].fingerprint, "the type counts"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/gr\xf6\xdfe"
    os.mkdir(folder)
    for name in (b"caf\xe9.txt", b"caf\xe9.pdf"):
        Path(os.fsdecode(folder + b"/" + name)).write_text("text " * 100)
    source = open_source(os.fsdecode(folder))
    assert source.name.endswith(r"gr\xf6\xdfe") and source.left_out.line == r"1 file left out: caf\xe9.pdf (unknown type)"
    assert read(os.fsdecode(folder + b"/caf\xe9.txt"))[0] == sorted(["text " * 96, "text " * 4])


def test_files_that_vanish_and_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "x" * 100)
    source = open_source(str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.txt: No such file"):
        list(source.documents("train"))
    write(path, "x" * 100)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # chmod does not keep root out
    refused(tmp_path, "a.txt: permission denied", "change its permissions")
    monkeypatch.undo()
    refused("x" * 5000, "File name too long")


def test_grouping_takes_time_in_proportion_to_the_files() -> None:
    def seconds(count: int) -> float:
        file = TextFile(Path("/data/a.txt"), "/data/a.txt", "a.txt", 100, 0, "hash")
        source, best = Source("many", (file,) * count), math.inf
        for _ in range(3):
            begin = time.process_time()
            assert [len(part.files) for part in source.parts("train")] == [count]
            best = min(best, time.process_time() - begin)
        return best

    few, many = seconds(2000), seconds(20_000)
    assert many < 40 * few, f"{few:.4f} s for 2,000 files, {many:.4f} s for 20,000"
