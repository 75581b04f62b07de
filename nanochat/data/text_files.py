"""Reads documents from text, JSON lines and parquet files, in order.

A document that is not UTF-8 is `None`, so that the caller can count it; a damaged file raises `UserError`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.common import UserError, first_line

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")  # one file is one document
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")  # one line is one document, under the key "text"
PARQUET_SUFFIXES = (".parquet",)  # one row is one document, in the column "text"
SUFFIXES = (*TEXT_SUFFIXES, *JSONL_SUFFIXES, *PARQUET_SUFFIXES)

Documents = Iterator[str | None]


def is_whole_text(path: Path) -> bool:
    """True if the whole file is one document."""
    return path.name.lower().endswith(TEXT_SUFFIXES)


def read_documents(path: Path) -> Documents:
    """The documents of a file in order, `None` for each that is not UTF-8.

    Raises `UserError`, naming the file and the line if it has lines, if the file is missing, truncated or malformed, or its
    name has none of `SUFFIXES`.
    """
    try:
        reader = next((reader for suffixes, reader in _READERS.items() if path.name.lower().endswith(suffixes)), None)
        if reader is None:
            raise UserError(f"{path}: unknown file type; expected one of {' '.join(SUFFIXES)}")
        yield from reader(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _decode(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _read_text(path: Path) -> Documents:
    text = _decode(path.read_bytes())
    yield text if text is None else text.removeprefix("\ufeff")


def _read_jsonl(path: Path) -> Documents:
    number = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_text(line, path, number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} after line {number}: damaged gzip data ({error}); delete it and get it again") from error


def _json_text(line: bytes, path: Path, number: int) -> str | None:
    decoded = _decode(line)
    if decoded is None:
        return None
    try:
        record = json.loads(decoded)
    except ValueError as error:
        raise UserError(f"{path} line {number}: not JSON ({error}); the file is truncated or damaged, fix it or get it again") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{path} line {number}: no string under the key "text"; expected an object with one on each line')
    try:
        text.encode("utf-8")  # JSON can spell lone surrogates, which are not text
    except UnicodeEncodeError:
        return None
    return text


def _read_parquet(path: Path) -> Documents:
    import pyarrow as pa

    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=1024, columns=["text"], use_threads=False):
                # As bytes: converting to strings would refuse the whole batch for one document that is not UTF-8.
                for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                    yield "" if value is None else _decode(value)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged parquet data ({first_line(error)}); delete it and get it again") from error


_READERS = {TEXT_SUFFIXES: _read_text, JSONL_SUFFIXES: _read_jsonl, PARQUET_SUFFIXES: _read_parquet}


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a parquet file. Raises `UserError` if its footer is not whole or it has no column "text" of strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a whole parquet file ({first_line(error)}); delete it and get it again") from error
    schema = file.schema_arrow
    kind = schema.field("text").type if "text" in schema.names else None
    if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        file.close()
        found = f'the column "text" has type {kind}' if kind else f'no column "text" among {", ".join(schema.names)}'
        raise UserError(f"{path}: {found}; expected strings")
    return file
