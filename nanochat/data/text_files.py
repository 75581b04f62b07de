"""Reads documents from text, JSON, CSV and parquet files, in order.

A document that is not text is `None`, so that the caller can count it; a damaged file raises `UserError`.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nanochat.common import UserError, first_line, shown
from nanochat.data.text_streams import PACKED_SUFFIXES, check_pointer, decode, is_text, looks_like, open_bytes, open_text, plain_suffix

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")  # one file is one document
COLUMN = "text"  # of the other files: one record, line or row is one document
MARK = "\ufeff"  # of the byte order; files that others were appended to have those of all
_CHUNK = 1 << 16  # characters
_DELIMITER = re.compile(r'"?sep=.')
_SPACE = re.compile(r"[\s,]*")
_SHOWN_COLUMNS = 12

Documents = Iterator[str | None]


class UnfitError(UserError):
    """A file whose first record has no text. `why` and `found` say so in the list of what is left out."""

    def __init__(self, message: str, why: str, found: str = "") -> None:
        super().__init__(message)
        self.why, self.found = why, found


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read: `.jsonl` for `a.JSONL.gz`; None if it is of an unknown type."""
    suffix, packed = plain_suffix(path), path.suffix.lower() in PACKED_SUFFIXES
    return suffix if suffix in _READERS and not (packed and suffix == ".parquet") else None


def is_whole_text(path: Path) -> bool:
    """True if the whole file is one document."""
    return kind_of(path) in TEXT_SUFFIXES


def read_documents(path: Path, column: str = COLUMN) -> Documents:
    """The documents of a file in order, `None` for each that is not text. `column` is the key or column of records; dots reach nested ones.

    Raises `UserError`, naming the file and the line or record, if the file is missing, truncated or malformed, or of an unknown
    type; `UnfitError` if its first record has no text.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: unknown file type; expected one of {KNOWN_TYPES}")
    try:
        yield from _READERS[kind](path, column)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_text(path: Path, column: str) -> Documents:
    with open_bytes(path) as stream:
        yield decode(stream.read())


# --- JSON ---


def _read_lines(path: Path, column: str) -> Documents:
    with open_text(path, newline=None) as lines:
        for number, line in enumerate(lines, start=1):
            if (line := line.lstrip(MARK)) and not line.isspace():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    if is_text(line) and "\0" not in line:  # no UTF-16 without a byte order mark either
                        raise _not_json(path, f"line {number}", error, number) from error
                    yield None
                else:
                    yield _text_of(record, column, path, f"line {number}", number)


def _read_json(path: Path, column: str) -> Documents:
    number = 0
    with open_text(path, newline="\n") as stream:
        try:
            for number, record in enumerate(json_values(stream), start=1):
                yield _text_of(record, column, path, f"record {number}", number)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, f"record {number + 1}", error, number + 1) from error


def json_values(stream: TextIO) -> Iterator[Any]:
    """The elements of a JSON array, or JSON values one after another, without ever holding more than one and a chunk of text."""
    decoder, text, at = json.JSONDecoder(), stream.read(_CHUNK).lstrip(), 0
    if is_array := text.startswith("["):
        at = 1
    while True:
        at = _SPACE.match(text, at).end()
        try:
            if is_array and text.startswith("]", at):
                break
            value, end = decoder.raw_decode(text, at)
            if end == len(text) and (more := stream.read(_CHUNK)):  # a number may go on
                text = text[at:] + more
                at = 0
                continue
        except json.JSONDecodeError as error:
            # Only an error at the end may be mended by more text, or that of a string, which is said to be where it begins.
            torn = error.pos + 16 > len(text) or error.msg.startswith("Unterminated string")
            more = stream.read(max(_CHUNK, len(text) - at)) if torn else ""
            if not more:
                if at == len(text) and not is_array:
                    return
                raise
            text, at = text[at:] + more, 0
        else:
            at = end
            yield value
    if (text[at + 1 :] + stream.read(_CHUNK)).strip():
        raise ValueError("more text after the array")


def _not_json(path: Path, where: str, error: Exception, number: int) -> UserError:
    if isinstance(error, RecursionError):
        why, message = "nested too deep", f"{path} {where}: JSON is nested too deep; remove the record"
    else:
        why = "not JSON"
        encoding = looks_like(path) if number == 1 else ""
        looks = f", which looks like {encoding}" if encoding else ""
        message = f"{path} {where}: not JSON{looks} ({first_line(error)}); the file is truncated or damaged, fix it or get it again"
        if number == 1 and kind_of(path) != ".json":
            message += "; if it is one array, or objects over several lines, call it .json"
    return UnfitError(message, why) if number == 1 else UserError(message)


def _text_of(record: Any, column: str, path: Path, where: str, number: int) -> str | None:
    """The text of a JSON record."""
    try:
        if not isinstance(record, dict):
            raise KeyError(column)
        return _to_text(record[column] if column in record else _at(record, column.split(".")))
    except TypeError as error:
        message = f'{path} {where}: the value of "{column}" is {error}; expected a string'
        raise (UnfitError(message, f'no string in "{column}"') if number == 1 else UserError(message)) from error
    except KeyError as error:
        found = _columns(_names(record)) if isinstance(record, dict) else f"a {type(record).__name__}, which is no object"
        if isinstance(record, list) and number == 1 and kind_of(path) != ".json":
            found += ", but the array of a file that should be called .json"
        raise _no_column(f"{path} {where}", column, found, number == 1) from error


def _at(value: Any, keys: list[str]) -> Any:
    """The value under nested keys; of a list, the values of its elements. Raises `KeyError`."""
    if not keys or value is None:
        return value
    if isinstance(value, list):
        return [_at(item, keys) for item in value]
    if not isinstance(value, dict):
        raise KeyError(keys[0])
    return _at(value[keys[0]], keys[1:])


def _to_text(value: Any) -> str | None:
    """Text of a value: null is empty, strings of a list are lines. Raises `TypeError` naming a type that is no text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if is_text(value) else None
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, list):
        parts = [_to_text(item) for item in value if item is not None]
        return None if None in parts else "\n".join(parts)
    raise TypeError(f"of type {type(value).__name__}")


def _names(record: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{before}{key}.")
        else:
            yield before + key


def _columns(names: Iterator[str] | list[str]) -> str:
    names = [shown(name if len(name) <= 40 else f"{name[:39]}…") for name in names]
    return ", ".join(names[:_SHOWN_COLUMNS]) + ", …" * (len(names) > _SHOWN_COLUMNS) or "nothing"


def _no_column(where: str, column: str, found: str, is_first: bool = True) -> UserError:
    message = f'{where}: no "{column}", only {found}; name the column of the text with --text-column'
    return UnfitError(message, f'no column "{column}"', found) if is_first else UserError(message)


def _check_once(path: Path, column: str, names: list[str]) -> None:
    if names.count(column) > 1:
        raise UserError(f'{path}: {names.count(column)} columns are called "{column}"; give them different names')


# --- CSV ---


def _read_table(path: Path, column: str, delimiters: str) -> Documents:
    csv.field_size_limit(sys.maxsize)
    with open_text(path, newline="") as lines:
        taken: list[str] = []  # lines of the header, which may be several
        headers = {delimiter: _header(lines, delimiter, taken) for delimiter in delimiters}
        delimiter = next((d for d, names in headers.items() if column in names), delimiters[0])
        header = headers[delimiter]
        if not header:
            return
        if column not in header:
            raise _no_column(f"{path} line 1", column, _columns(header))
        _check_once(path, column, header)
        index, rows = header.index(column), csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for row in rows:
                if row and len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields under {len(header)} names")
                if row:
                    yield row[index] if is_text(row[index]) else None
        except csv.Error as error:
            raise UserError(f"{path} line {rows.line_num + len(taken)}: {error}; the file is damaged, or its quotes are; fix it") from error


def _header(lines: Iterator[str], delimiter: str, taken: list[str]) -> list[str]:
    """The first row that is not empty, nor a spreadsheet's note of its delimiter. Lines that it takes are `taken`, and read first."""

    def more() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    rows = csv.reader(itertools.chain(tuple(taken), more()), delimiter=delimiter)
    return next((row for number, row in enumerate(rows) if any(row) and (number or not _DELIMITER.match(taken[0]))), [])


# --- parquet ---


def _read_parquet(path: Path, column: str) -> Documents:
    import pyarrow as pa

    with open_parquet(path, column) as file:
        schema = file.schema_arrow
        name, keys = (column, []) if column in schema.names else (column.split(".")[0], column.split(".")[1:])
        try:
            for batch in file.iter_batches(batch_size=1024, columns=[name], use_threads=False):
                if keys or pa.types.is_nested(schema.field(name).type):
                    yield from (_nested(value, keys) for value in batch.column(0))
                else:
                    # As bytes: converting to strings would refuse the whole batch for one document that is not UTF-8.
                    for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                        yield "" if value is None else _decoded(value)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged parquet data ({first_line(error)}); delete it and get it again") from error


def _nested(value: pa.Scalar, keys: list[str]) -> str | None:
    try:
        return _to_text(_at(value.as_py(), keys))
    except UnicodeDecodeError:
        return None


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def open_parquet(path: Path, column: str = COLUMN) -> pq.ParquetFile:
    """Opens a parquet file. Raises `UserError` if its footer is not whole, `UnfitError` if it has no such column of strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        with open(path, "rb") as data:
            check_pointer(path, data.read(64))
        raise UserError(f"{path}: not a whole parquet file ({first_line(error)}); delete it and get it again") from error
    schema = file.schema_arrow
    keys = [column] if column in schema.names else column.split(".")
    kind = _kind_at(pa.struct(schema), keys)
    if kind is None or not _is_textual(kind):
        file.close()
        _check_once(path, column, schema.names)
        if kind is None:
            raise _no_column(str(path), column, _columns(_leaves(pa.struct(schema))))
        raise UnfitError(f'{path}: the column "{column}" has type {kind}; expected strings', f'no strings in the column "{column}"')
    return file


def _kind_at(kind: pa.DataType, keys: list[str]) -> pa.DataType | None:
    """The type under nested names, through lists; None if there is none."""
    import pyarrow as pa

    if not keys:
        return kind
    if _is_list(kind):
        return _kind_at(kind.value_type, keys)
    if pa.types.is_struct(kind) and kind.get_field_index(keys[0]) >= 0:
        return _kind_at(kind.field(keys[0]).type, keys[1:])
    return None


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    of = pa.types
    return any(test(kind) for test in (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view))


def _is_textual(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if _is_list(kind) or pa.types.is_dictionary(kind):
        return _is_textual(kind.value_type)
    known = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.null())
    return kind in known


def _leaves(kind: pa.DataType, before: str = "") -> Iterator[str]:
    import pyarrow as pa

    for field in kind:
        inner = field.type
        while _is_list(inner):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            yield from _leaves(inner, f"{before}{field.name}.")
        else:
            yield before + field.name


_READERS: dict[str, Callable[[Path, str], Documents]] = {
    **dict.fromkeys(TEXT_SUFFIXES, _read_text),
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": partial(_read_table, delimiters=",;\t"),
    ".tsv": partial(_read_table, delimiters="\t"),
    ".parquet": _read_parquet,
}
KNOWN_TYPES = f"{' '.join(_READERS)}, all but parquet also with {' '.join(PACKED_SUFFIXES)}"
