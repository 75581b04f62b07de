"""Odd files of a corpus: each is read right, or its one line says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.common import UserError
from nanochat.data.left_out import LeftOut
from nanochat.data.sources import open_source
from nanochat.data.text_files import read_documents

MARK = b"\xef\xbb\xbf"
LINES = b'{"text": "a"}\n{"text": "b"}\n'

READ: dict[str, tuple[str, bytes, list[str | None]]] = {
    "two marks": ("a.jsonl", MARK * 2 + LINES, ["a", "b"]),
    "files with marks joined": ("a.jsonl", MARK + LINES + MARK + LINES, ["a", "b"] * 2),
    "nothing but a mark": ("a.jsonl", MARK + b"\n" + LINES + MARK, ["a", "b"]),
    "CRLF": ("a.jsonl", LINES.replace(b"\n", b"\r\n"), ["a", "b"]),
    "a key twice": ("a.jsonl", b'{"text": "a", "text": "b"}\n', ["b"]),
    "no number": ("a.jsonl", b'{"text": "a", "n": NaN}\n', ["a"]),
    "half a pair": ("a.jsonl", b'{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}\n', ["😀", None]),
    "a line separator": ("a.jsonl", '{"text": "a\u2028b\x85"}\n'.encode(), ["a\u2028b\x85"]),
    "NUL": ("a.jsonl", b'{"text": "a\\u0000b"}\n', ["a\0b"]),
    "quotes and line breaks": ("a.csv", b'id,text\n1,"a, ""b""\nc"\n', ['a, "b"\nc']),
    "a line break in the header": ("a.csv", b'"the\nid",text\n1,a\n', ["a"]),
    "blank lines first": ("a.csv", b"\n\r\nid,text\n1,a\n", ["a"]),
    "a note of the delimiter": ("a.csv", b"sep=;\nid;text\n1;a, b\n", ["a, b"]),
    "a quoted note": ("a.csv", b'"sep=\t"\r\nid\ttext\r\n1\ta;b\r\n', ["a;b"]),
    "tabs": ("a.csv", b"id\ttext\n1\ta, b\n", ["a, b"]),
    "line ends of old": ("a.csv", b"id,text\r1,a\r2,b\r", ["a", "b"]),
    "a tab in quotes": ("a.tsv", b'id\ttext\n1\t"a\tb"\n', ["a\tb"]),
    "quotes in the middle": ("a.tsv", b'id\ttext\n1\t5" disk\n', ['5" disk']),
    "old line ends of JSON": ("a.jsonl", LINES.replace(b"\n", b"\r"), ["a", "b"]),
    "a comma too many": ("a.json", b'[{"text": "a"},\n]', ["a"]),
    "objects without an array": ("a.json", b'{"text": "a"}\n{\n"text": "b"}', ["a", "b"]),
}


@pytest.mark.parametrize("what", READ)
def test_odd_files_are_read(tmp_path: Path, what: str) -> None:
    name, data, expected = READ[what]
    (tmp_path / name).write_bytes(data)
    assert [*read_documents(tmp_path / name)] == expected


REFUSED = {
    "unequal rows": ("a.csv", b'"the\nid",text\n1,a\n2,b,c\n', "line 4: 3 fields under 2 names"),
    "an open quote": ("a.csv", b'id,text\n1,"a\n', "line 2: unexpected end of data"),
    "a quote within quotes": ("a.tsv", b'id\ttext\n1\t"a" b\n', "line 2: .*expected after"),
    "no header but blank lines": ("a.csv", b"\n\nid,words\n", 'no "text", only id, words'),
    "an array": ("a.jsonl", b'[{"text": "a"}]\n', "the array of a file that should be called .json; name"),
    "objects over several lines": ("a.jsonl", b'{\n"text": "a"}\n', "line 1: not JSON .* or objects over several lines, call it .json"),
    "UTF-16 without a mark": ("a.json", '{"text": "aäb"}'.encode("utf-16-le"), "record 1: not JSON, which looks like utf-16-le"),
    "two columns of a name": ("a.csv", b"text,text\na,b\n", '2 columns are called "text"; give them different names'),
    "strings": ("a.jsonl", b'"a"\n', "only a str, which is no object"),
    "no such key later": ("a.jsonl", LINES + b'{"txt": "a"}\n', 'line 3: no "text", only txt'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_odd_files_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    name, data, why = REFUSED[what]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=why) as error:
        [*read_documents(tmp_path / name)]
    assert "\n" not in str(error.value)


def test_two_columns_of_a_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match='2 columns are called "text"; give them different names'):
        [*read_documents(tmp_path / "a.parquet")]


def test_structs_in_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"m": [[{"role": "user", "content": "a"}, {"role": "x", "content": None}]]}), tmp_path / "a.parquet")
    assert [*read_documents(tmp_path / "a.parquet", "m.content")] == ["a"]
    for column, why in (("m", "has type list<"), ("text", "only m.role, m.content")):
        with pytest.raises(UserError, match=why):
            [*read_documents(tmp_path / "a.parquet", column)]


def test_empty_files_beside_others_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.txt", "c.parquet", "d.csv", "e.jsonl.gz", "f.json"):
        (tmp_path / name).touch()
    (tmp_path / "g.jsonl").write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(80)))
    source, left_out = open_source(str(tmp_path)), LeftOut()
    assert sum(1 for split in ("train", "val") for _ in source.documents(split, left_out)) == 80
    assert (source.left_out + left_out).line == "6 files left out: d.csv, f.json, a.jsonl and 3 more (empty)"


@pytest.fixture
def one_line(tmp_path: Path) -> Callable[[str], str]:
    def refused(name: str) -> str:
        with pytest.raises(UserError) as error:
            open_source(str(tmp_path / name))
        assert "\n" not in str(error.value)
        return str(error.value)

    return refused


def test_files_that_are_not_what_they_are_called(tmp_path: Path, one_line: Callable[[str], str]) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(LINES)
    assert "damaged gzip data" in one_line("a.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(LINES)
    assert "not a whole parquet file" in one_line("a.parquet")
    (tmp_path / "a.jsonl.gz.gz").write_bytes(LINES)
    assert "unknown file type" in one_line("a.jsonl.gz.gz")
