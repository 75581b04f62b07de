"""The rows of a data set out of files: JSONL or parquet, one or several, each row with the place where it stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from nanochat.common import UserError

SUFFIXES = (".jsonl", ".parquet")


class Rows(Protocol):
    """Rows of a table by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def where(self, index: int) -> str:
        """Where row `index` stands, for messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when a row does."""
        ...


class Lines:
    """The lines of a JSONL file, blank ones left out. Raises `UserError` for one that is not JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        for index in range(len(self._lines)):
            self[index]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Any:
        try:
            return json.loads(self._lines[index][1])
        except ValueError as error:
            raise UserError(f"{self.where(index)} is not JSON ({error}); correct or remove that line") from error

    def where(self, index: int) -> str:
        """File and line."""
        return f"{self._path}, line {self._lines[index][0]},"

    @property
    def fingerprint(self) -> str:
        """Of the lines."""
        return _digest(line for _, line in self._lines)


class Table:
    """The rows of parquet files, one after the other. Raises `UserError` for a file that is none."""

    def __init__(self, paths: list[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._paths, tables = paths, []
        for path in paths:
            try:
                tables.append(pq.read_table(path))
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path} is no readable parquet file ({str(error).splitlines()[0]}); get it again") from error
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
        """Of the files."""
        return _digest(chunk for path in self._paths for chunk in _chunks(path))


class Joined:
    """Several files of lines as one."""

    def __init__(self, several: list[Lines]) -> None:
        self._several = several
        self._places = [(lines, index) for lines in several for index in range(len(lines))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        lines, place = self._places[index]
        return lines[place]

    def where(self, index: int) -> str:
        """File and line."""
        lines, place = self._places[index]
        return lines.where(place)

    @property
    def fingerprint(self) -> str:
        """Of all lines."""
        return _digest(lines.fingerprint.encode() for lines in self._several)


def local_rows(path: Path, splits: tuple[str, ...] = ()) -> Rows:
    """The rows of a .jsonl or .parquet file; of a folder, those of its files whose names begin with one of `splits`.

    Raises `UserError` where there are none.
    """
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.name.startswith(splits))
        if not paths:
            raise UserError(f"{path} has no file {splits[0]}*.jsonl or {splits[0]}*.parquet; give a file, or a folder that has one")
    elif not path.is_file():
        raise UserError(f"there is no file {path}; give a .jsonl or .parquet file, or a folder of such files")
    else:
        paths = [path]
    kinds = {p.suffix for p in paths}
    if len(kinds) > 1 or not kinds <= set(SUFFIXES):
        raise UserError(f"{path} must hold .jsonl files or .parquet files, not {' and '.join(sorted(kinds))}")
    rows = Table(paths) if kinds == {".parquet"} else Joined([Lines(p) for p in paths])
    if not len(rows):
        raise UserError(f"{path} has no rows; give a file that has some")
    return rows


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            yield chunk
