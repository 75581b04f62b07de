"""The column of the text: nested keys, and the types of columns, in JSON, CSV and parquet files."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.common import UserError
from nanochat.data.text_files import UnfitError, read_documents

RECORDS = [
    {"text": "one", "meta": {"de": {"body": "eins"}}, "a.b": "1", "parts": ["x", "y"], "turns": [{"say": "hi"}, {"say": "ho"}]},
    {"text": None, "meta": None, "a.b": "2", "parts": [], "turns": None},
    {"text": "two", "meta": {"de": {"body": "zwei"}}, "a.b": None, "parts": ["z", None], "turns": [{"say": "he"}]},
]
COLUMNS = {
    "text": ["one", "", "two"],
    "meta.de.body": ["eins", "", "zwei"],
    "a.b": ["1", "2", ""],
    "parts": ["x\ny", "", "z"],
    "turns.say": ["hi\nho", "", "he"],
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("form", ["lines", "array", "pretty array", "pretty values", "parquet"])
def test_columns(tmp_path: Path, form: str, column: str) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    pretty = "\n\n".join(json.dumps(record, indent=2) for record in RECORDS)
    texts = {"lines": lines, "array": json.dumps(RECORDS), "pretty array": json.dumps(RECORDS, indent=1) + "\n", "pretty values": pretty}
    path = tmp_path / ("a.parquet" if form == "parquet" else "a.json.gz")
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        path.write_bytes(gzip.compress(texts[form].encode()))
    assert list(read_documents(path, column)) == COLUMNS[column]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
)
def test_types_of_parquet_column(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["a", None, "b", "a"]).cast(kind)
    table = pa.table({"id": [1, 2, 3, 4], "text": column, "in": pa.StructArray.from_arrays([column], ["text"])})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet")) == ["a", "", "b", "a"]
    assert list(read_documents(tmp_path / "a.parquet", "in.text")) == ["a", "", "b", "a"]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.binary())])
def test_lists_of_strings_are_lines(tmp_path: Path, kind: pa.DataType) -> None:
    values: Sequence[Any] = [["a", "b"], None, ["c", "ä"]]
    pq.write_table(pa.table({"text": pa.array(values, kind)}), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet")) == ["a\nb", "", "c\nä"]


def test_a_list_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"B\xe4r"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), strings)
    pq.write_table(pa.table({"text": lists, "nulls": pa.nulls(2)}), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet")) == ["good", None]
    assert list(read_documents(tmp_path / "a.parquet", "nulls")) == ["", ""]


LONG = "a very long cell, " * 300_000  # longer than any buffer
TABLE = f'id,text,by\n1,"one, two\nand ""three""",x\n\n2,,y\n3,{json.dumps(LONG)},z\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", TABLE.encode()),
        ("A.CSV", TABLE.encode("utf-8-sig")),
        ("a.csv.gz", gzip.compress(TABLE.replace("\n", "\r\n").encode("utf-16"))),
        ("semicolon.csv", re.sub(r",(?! )", ";", TABLE).encode()),
        ("a.tsv", b'id\ttext\tby\n1\t"one, two\nand ""three"""\tx\n2\t\ty\n3\t' + LONG.encode() + b"\tz\n"),
    ],
)
def test_tables(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    read = [text.replace("\r\n", "\n") for text in read_documents(tmp_path / name) if text is not None]
    assert read == ['one, two\nand "three"', "", LONG]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,content\n1,x\n", ['no "text", only id, content', "--text-column"]),
        ("1,some text without a header\n", ["only 1, some text without a header"]),
        ("id,text\n1,x\n2,y,z\n", ["line 3", "3 fields under 2 names"]),
        ('id,text\n1,x\n2,"torn\nin the mi', ["line 4", "unexpected end of data"]),
        ('id,text\n1,"x" y\n', ["line 2", "expected after"]),
    ],
)
def test_damaged_tables(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        list(read_documents(tmp_path / "a.csv"))
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "a.csv") in message and all(word in message for word in words), message


def test_values_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    records = [{"text": f"{i} " + 'ä " \\ ' * (1 << i)} for i in range(18)]
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(records, indent=indent))
        assert list(read_documents(tmp_path / "a.json")) == [record["text"] for record in records]


@pytest.mark.parametrize("text", ["", " \n ", "[]", " [ ] \n"])
def test_json_without_records(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert list(read_documents(tmp_path / "a.json")) == []


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}, {"text": "b"}', '[{"text": "a"}, {"text": "b', '[{"text": "a"}] more', '{"text": "a"} }', "nul"]
)
def test_truncated_and_damaged_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json record [1-3]: not JSON"):
        list(read_documents(tmp_path / "a.json"))


def test_an_early_error_in_a_long_file_is_found_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text" "b"}, ' + " " * (1 << 22) + '{"text": "c"}]')
    tracemalloc.start()
    with pytest.raises(UserError, match="record 2: not JSON"):
        list(read_documents(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_only_the_first_record_makes_a_file_unfit(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '{"name": "package", "version": 1}'),
        ("b.json", "// a comment\n{}"),
        ("c.csv", "a,b\n1,2\n"),
        ("d.json", "[1]"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnfitError):
            next(read_documents(tmp_path / name))
    (tmp_path / "e.json").write_text('[{"text": "a"}, {"name": "b"}]')
    documents = read_documents(tmp_path / "e.json")
    assert next(documents) == "a"
    with pytest.raises(UserError) as caught:
        next(documents)
    assert not isinstance(caught.value, UnfitError)
