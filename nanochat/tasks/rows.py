"""Where the rows of a data set come from: the hub or its cache, through `datasets`, or files in the same schema."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nanochat.common import UserError
from nanochat.tasks.task import Split

PROBE_SECONDS = 4.0  # in which the hub has to answer, before anything is asked of it
SUFFIXES = (".jsonl", ".parquet")


class Source(NamedTuple):
    """A data set of the hub: repository, configuration, and what a split is called there."""

    repository: str
    config: str | None
    splits: dict[Split, str]


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


class HubRows:
    """A data set that `datasets` has loaded."""

    def __init__(self, source: Source, data: Any) -> None:
        self._source, self._data = source, data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._data[index]

    def where(self, index: int) -> str:
        """Repository and row."""
        return f"{self._source.repository}, row {index + 1},"

    @property
    def fingerprint(self) -> str:
        """That of `datasets`: of the files it was made of and what was done to them."""
        return self._data._fingerprint


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


def open_rows(name: str, source: Source, split: Split, path: str, offline: bool) -> Rows:
    """The rows of `split` out of `path`, or, where that is empty, of the hub's data set `source` or the hub's cache.

    Nothing waits for a hub that is not there. Raises `UserError` where the data cannot be had, or `name` has no such split.
    """
    if split not in source.splits:
        raise UserError(f"{name} has no {split} split; it has {' and '.join(source.splits)}")
    if path:
        return local_rows(Path(path).expanduser(), (source.splits[split], split))
    reachable = not offline and hub_answers()
    why = "offline was asked for" if offline else "the hub does not answer"
    what = f"connect to the network once, or give files of the data set: {name}:PATH"
    missing = f"{name} ({source.repository}) is not on this machine and cannot be downloaded"
    if not reachable and not _was_downloaded(source.repository):
        raise UserError(f"{missing} ({why}); {what}")
    import datasets  # here, because it takes seconds
    import httpx  # what `datasets` asks the hub with

    try:
        with _quiet(datasets), _offline(datasets, not reachable):
            return HubRows(source, datasets.load_dataset(source.repository, source.config, split=source.splits[split]))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{missing} ({' '.join(str(error).split()) if reachable else why}); {what}") from error


def _was_downloaded(repository: str) -> bool:
    """Whether something of a data set is in one of the caches."""
    from huggingface_hub import constants

    made = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    downloaded = Path(constants.HF_HUB_CACHE, f"datasets--{repository.replace('/', '--')}")
    return downloaded.exists() or (made / repository.replace("/", "___")).exists()


@cache
def hub_answers() -> bool:
    """Whether the hub answers at all, by `PROBE_SECONDS`; asked once in a process."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # a refusal is an answer
        except OSError:
            answers.append(False)

    # A thread, because looking a name up has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers) and answers[0]


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            yield chunk


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Within, `datasets` and the hub's client look at their caches alone: they would try five times for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = (wanted or value for value in before)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Within, `datasets` logs errors only; what matters is in the exception."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
