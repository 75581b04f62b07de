"""Rows of a data set from JSONL, JSON or parquet files, one or several, each with its place for error messages."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanochat.common import UserError, first_line
from nanochat.data.text_files import json_values
from nanochat.data.text_streams import PACKED_SUFFIXES, check_pointer, decode, looks_like, open_bytes, plain_suffix

LINES, ARRAY, TABLE = (".jsonl", ".ndjson"), (".json",), (".parquet",)
SUFFIXES = (*LINES, *ARRAY, *TABLE)  # before a compression's, for all but parquet


class Rows(Protocol):
    """Rows of a table by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def where(self, index: int) -> str:
        """Place of row `index`, for messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of all rows."""
        ...


class Lines:
    """Lines of JSONL files, without blank ones, and elements of JSON files. Raises `UserError` for a line that is not JSON."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._lines: list[tuple[Path, str, bytes]] = []
        digests = []
        for path in paths:
            found = [(path, place, line) for place, line in _lines(path)]
            self._lines += found
            digests.append(_digest(line for *_, line in found))
        self.fingerprint = _digest(digest.encode() for digest in digests)
        for index in range(len(self)):
            self[index]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Any:
        return _parse(self._lines[index][2], self.where(index))

    def where(self, index: int) -> str:
        """File and line."""
        path, place, _ = self._lines[index]
        return f"{path}, {place},"


class Table:
    """Rows of parquet files, concatenated. Raises `UserError` for an invalid file."""

    def __init__(self, paths: list[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._paths, tables = paths, []
        for path in paths:
            try:
                tables.append(pq.read_table(path))
            except (OSError, pa.ArrowException) as error:
                with open(path, "rb") as data:
                    check_pointer(path, data.read(64))
                raise UserError(f"invalid parquet file {path} ({first_line(error)}); download it again") from error
        try:
            self._table = pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise UserError(f"the parquet files in {paths[0].parent} differ in their columns; keep those of one data set") from error

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def where(self, index: int) -> str:
        """Files and row."""
        return f"{self._paths[0] if len(self._paths) == 1 else self._paths[0].parent}, row {index + 1},"

    @property
    def fingerprint(self) -> str:
        """Digest of the files."""
        return _digest(chunk for path in self._paths for chunk in _chunks(path))


def is_data(path: Path) -> bool:
    """True if the name is that of a file that `rows_of` reads."""
    return plain_suffix(path) in SUFFIXES and not (plain_suffix(path) in TABLE and path.suffix.lower() in PACKED_SUFFIXES)


def local_rows(path: Path, splits: tuple[str, ...] = ()) -> Rows:
    """Rows of a file, or of the files in a folder whose names begin with one of `splits`. Raises `UserError` if there are none."""
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if is_data(p) and p.name.startswith(splits))
        if not paths:
            raise UserError(f"{path} has no file {splits[0]}*.jsonl or {splits[0]}*.parquet; give a file, or a folder that has one")
        return rows_of(paths)
    return rows_of([path])


def rows_of(paths: Sequence[Path]) -> Rows:
    """Rows of files of one kind. Raises `UserError` if a file is missing or invalid, or there are no rows."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder; give a .jsonl, .json or .parquet file, or a folder of such files")
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a broken link: {os.readlink(path)} does not exist; get its contents first")
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a .jsonl, .json or .parquet file, or a folder of such files")
        if not is_data(path):
            kinds = f"{' '.join(SUFFIXES)}, all but .parquet also with {' '.join(PACKED_SUFFIXES)}"
            raise UserError(f"{path}: unknown file type; expected one of {kinds}")
    tables = [plain_suffix(path) in TABLE for path in paths]
    if any(tables) and not all(tables):
        raise UserError(f"{paths[0].parent} has files of rows and of tables, .jsonl and .parquet; keep those of one data set")
    rows = Table(list(paths)) if any(tables) else Lines(paths)
    if not len(rows):
        raise UserError(f"{paths[0]} has no rows; give another file")
    return rows


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and JSON of each row of a file."""
    try:
        with open_bytes(path) as f:
            data = f.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if (text := decode(data)) is None:
        raise UserError(f"{path} looks like {looks_like(path)}, and is not UTF-8 text; save it as UTF-8")
    data = text.encode()
    if plain_suffix(path) in ARRAY and (whole := _whole(data, path)) is not None:
        yield from ((f"element {i + 1}", row) for i, row in enumerate(whole))
        return
    for number, line in enumerate(data.splitlines(), 1):
        # A file that others were appended to has the marks of all.
        if line := line.removeprefix(codecs.BOM_UTF8).strip():
            yield f"line {number}", line


def _whole(data: bytes, path: Path) -> list[bytes] | None:
    """Elements of a JSON file, which may be one object; None if each line is JSON of its own, as in some that are called .json."""
    first, _, rest = data.strip().partition(b"\n")
    if rest:
        try:
            json.loads(first)
            return None
        except (ValueError, RecursionError):
            pass
    try:
        return [json.dumps(row).encode() for row in json_values(io.StringIO(data.decode()))]
    except ValueError as error:
        raise _not_json(str(path), error) from error
    except RecursionError as error:
        raise _too_deep(str(path)) from error


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        one_value = "; if the file is one array, or objects over several lines, call it .json" if where.endswith("line 1,") else ""
        raise _not_json(where, error, one_value) from error
    except RecursionError as error:
        raise _too_deep(where) from error


def _not_json(where: str, error: ValueError, else_: str = "") -> UserError:
    return UserError(f"{where} is not JSON ({error}); correct or remove it{else_}")


def _too_deep(where: str) -> UserError:
    return UserError(f"{where} is nested too deeply; correct or remove it")


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            yield chunk
