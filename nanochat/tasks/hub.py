"""Data sets of the hub, through `datasets`: downloaded once, found in its cache ever after, refused at once where neither can be."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nanochat.common import UserError
from nanochat.tasks.dataset_rows import Rows, local_rows
from nanochat.tasks.task import Split

PROBE_SECONDS = 4.0  # in which the hub has to answer, before anything is asked of it


class Source(NamedTuple):
    """A data set of the hub: repository, configuration, and what a split is called there."""

    repository: str
    config: str | None
    splits: dict[Split, str]


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
