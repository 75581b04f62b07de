"""Rows of a data set from JSONL or parquet files, one or several, each with its place for error messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanochat.common import UserError

SUFFIXES = (".jsonl", ".parquet")


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
    """Lines of JSONL files, without blank ones. Raises `UserError` for a line that is not JSON."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._lines: list[tuple[Path, int, bytes]] = []
        digests = []
        for path in paths:
            try:
                lines = path.read_bytes().splitlines()
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from error
            found = [(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
            self._lines += found
            digests.append(_digest(line for *_, line in found))
        self.fingerprint = _digest(digest.encode() for digest in digests)
        for index in range(len(self)):
            self[index]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Any:
        try:
            return json.loads(self._lines[index][2])
        except ValueError as error:
            raise UserError(f"{self.where(index)} is not JSON ({error}); correct or remove that line") from error

    def where(self, index: int) -> str:
        """File and line."""
        path, number, _ = self._lines[index]
        return f"{path}, line {number},"


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
                raise UserError(f"invalid parquet file {path} ({str(error).splitlines()[0]}); download it again") from error
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


def local_rows(path: Path, splits: tuple[str, ...] = ()) -> Rows:
    """Rows of a .jsonl or .parquet file, or of the files in a folder whose names begin with one of `splits`.

    Raises `UserError` if there are none.
    """
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.name.startswith(splits))
        if not paths:
            raise UserError(f"{path} has no file {splits[0]}*.jsonl or {splits[0]}*.parquet; give a file, or a folder that has one")
    elif not path.is_file():
        raise UserError(f"{path} does not exist; give a .jsonl or .parquet file, or a folder of such files")
    else:
        paths = [path]
    kinds = {p.suffix for p in paths}
    if len(kinds) > 1 or not kinds <= set(SUFFIXES):
        raise UserError(f"{path} must hold .jsonl files or .parquet files, not {' and '.join(sorted(kinds))}")
    rows = Table(paths) if kinds == {".parquet"} else Lines(paths)
    if not len(rows):
        raise UserError(f"{path} has no rows; give another file")
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
