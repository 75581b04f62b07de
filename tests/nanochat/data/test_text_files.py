"""Readers of text, JSON lines and parquet: order, encodings, damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.common import UserError
from nanochat.data.text_files import read_documents
from tests.helpers.shard_server import parquet_bytes

DOCUMENTS = ["one\r\nline", "zwei: äöü ∀ 🙂", "", "three\n" * 100]


def write(path: Path, documents: list[str]) -> Path:
    lines = "".join(json.dumps({"text": text, "id": i}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(documents)).encode()
    if path.name.lower().endswith(".parquet"):
        path.write_bytes(parquet_bytes(documents))
    else:
        path.write_bytes(gzip.compress(lines) if path.name.lower().endswith(".gz") else lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson", "a.json", "a.JSON.GZ", "a.parquet", "A.PARQUET"])
def test_documents_come_in_order(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, DOCUMENTS)
    assert list(read_documents(tmp_path / name)) == DOCUMENTS


def test_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"\xef\xbb\xbf# Title\r\n\r\nB\xc3\xa4r")
    assert list(read_documents(path)) == ["# Title\r\n\r\nBär"]


def test_bytes_that_are_not_utf8_spoil_their_own_document_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Bär".encode("latin-1"))
    assert list(read_documents(tmp_path / "a.txt")) == [None]
    lines = b'{"text": "good"}\n{"text": "B\xe4r"}\n\n{"text": "\\ud800"}\n{"by": "B\xe4r", "text": "good"}\n\xff\xfe\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert list(read_documents(tmp_path / "a.jsonl")) == ["good", None, None, "good", None]
    (tmp_path / "b.jsonl").write_bytes('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16-le"))
    assert set(read_documents(tmp_path / "b.jsonl")) == {None}
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,good\n2,B\xe4r\n")
    assert list(read_documents(tmp_path / "a.csv")) == ["good", None]
    binary = pa.array([b"good", b"B\xe4r", None, b"good"], pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 4, binary.buffers())}), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet")) == ["good", None, "", "good"]


def fails(path: Path, *words: str, column: str = "text") -> None:
    with pytest.raises(UserError) as caught:
        list(read_documents(path, column))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 1000 and all(word in message for word in words), message


def test_truncated_jsonl_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["first", "second", "third"])
    path.write_bytes(path.read_bytes()[:-5])
    fails(path, "line 3", "truncated")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('["text"]', ["a list, which is no object"]),
        ('"text"', ["a str"]),
        ('{"content": "x", "meta": {"by": "y"}}', ["only content, meta.by", "--text-column"]),
        ('{"text": 3}', ['"text" is of type int']),
        ('{"text": {"en": "x"}}', ["of type dict"]),
        ('{"text": ["x", 3]}', ["of type int"]),
        ('{"text": "x"} {"text": "y"}', ["not JSON", "Extra data"]),
        ('{"text": "a", "m": ' + "[" * 100_000 + "]" * 100_000 + "}", ["nested too deep"]),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", ["not JSON"]),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_lines_without_text(tmp_path: Path, name: str, line: str, words: list[str]) -> None:
    path = tmp_path / name
    if name == "a.jsonl" or "Extra data" not in words:
        path.write_text('{"text": "x"}\n' + line + "\n")
        fails(path, "line 2" if name == "a.jsonl" else "record 2", *words)


@pytest.mark.parametrize("keep", [5, 60, -1])
def test_truncated_gzip(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.jsonl.gz", DOCUMENTS)
    path.write_bytes(path.read_bytes()[:keep])
    fails(path, "damaged gzip")


def test_not_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text('{"text": "x"}\n')
    fails(path, "damaged gzip")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_parquet(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.parquet", DOCUMENTS)
    path.write_bytes(path.read_bytes()[:keep])
    fails(path, "parquet")


def test_damaged_page_of_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", DOCUMENTS)
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)
    path.write_bytes(data)
    fails(path, "parquet")


def test_parquet_without_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a"], "meta": [{"by": "b"}]}), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", 'no "text", only content, meta.by', "--text-column")
    fails(tmp_path / "a.parquet", 'no "meta.at"', column="meta.at")
    pq.write_table(pa.table({"text": [1], "list": [[1]]}), tmp_path / "b.parquet")
    fails(tmp_path / "b.parquet", '"text"', "int64")
    fails(tmp_path / "b.parquet", '"list"', column="list")
    pointer = tmp_path / "c.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n")
    fails(pointer, "git lfs pull")


def test_missing_and_unknown(tmp_path: Path) -> None:
    fails(tmp_path / "none.txt", "No such file")
    for name in ("a.pdf", "a.parquet.gz", "gz", "a.gz"):
        (tmp_path / name).write_text("x")
        fails(tmp_path / name, "unknown file type", ".jsonl")
