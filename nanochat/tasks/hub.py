"""Data sets of the Hugging Face hub, through `datasets`: downloaded once and cached; fails fast if neither is possible."""

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

from nanochat.common import UserError, typed_path
from nanochat.tasks.dataset_rows import Rows, local_rows
from nanochat.tasks.task import Split

PROBE_SECONDS = 4.0  # within which the hub must answer before anything is downloaded


class HubSource(NamedTuple):
    """Data set of the hub: repository, configuration, and the names of its splits."""

    repository: str
    config: str | None
    splits: dict[Split, str]


class HubRows:
    """Rows of a data set that `datasets` has loaded."""

    def __init__(self, source: HubSource, data: Any) -> None:
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
        """Fingerprint by `datasets`, of its files and their processing."""
        return self._data._fingerprint


def open_rows(name: str, source: HubSource, split: Split, path: str, offline: bool) -> Rows:
    """Rows of `split` from `path`, or, if that is empty, of the data set `source` from the hub or its cache.

    Does not wait for an unreachable hub. Raises `UserError` if the data is not available, or `name` has no such split.
    """
    if split not in source.splits:
        raise UserError(f"{name} has no {split} split; it has {' and '.join(source.splits)}")
    if path:
        return local_rows(typed_path(path), (source.splits[split], split))
    reachable = not offline and hub_answers()
    why = "offline mode" if offline else "the hub does not answer"
    what = f"connect to the network once, or give files of the data set: {name}:PATH"
    missing = f"{name} ({source.repository}) is not on this machine and cannot be downloaded"
    if not reachable and not _was_downloaded(source.repository):
        raise UserError(f"{missing} ({why}); {what}")
    import datasets  # here, as it takes seconds
    import httpx  # the client of `datasets`

    try:
        with _quiet(datasets), _offline(datasets, not reachable):
            return HubRows(source, datasets.load_dataset(source.repository, source.config, split=source.splits[split]))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{missing} ({' '.join(str(error).split()) if reachable else why}); {what}") from error


def _was_downloaded(repository: str) -> bool:
    """True if one of the caches has something of a data set."""
    from huggingface_hub import constants

    made = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    downloaded = Path(constants.HF_HUB_CACHE, f"datasets--{repository.replace('/', '--')}")
    return downloaded.exists() or (made / repository.replace("/", "___")).exists()


@cache
def hub_answers() -> bool:
    """True if the hub answers within `PROBE_SECONDS`; tested once per process."""
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

    # A thread, because name resolution has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers) and answers[0]


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Restricts `datasets` and the hub's client to their caches: otherwise they retry five times for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = (wanted or value for value in before)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Makes `datasets` log errors only; the exception has all that matters."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
