"""How reading a document gets on: plain lines, or a bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from typing import TextIO

from mc.ingest import Progress
from nanochat.runtime.signals import between

EVERY_SECONDS = 10.0  # between two plain lines


def follow(progress: Generator[Progress, None, None], name: str, stream: TextIO | None = None) -> Progress | None:
    """Goes through `progress` of the document `name`, shows it on `stream` (default: stderr) and returns the last of it.

    A Ctrl-C ends it early, between two steps; None where there was no step.
    """
    stream = stream or sys.stderr
    last: Progress | None = None
    display = _Bar(name, stream) if stream.isatty() else _Lines(name, stream)
    with contextlib.closing(progress), display, contextlib.suppress(KeyboardInterrupt):
        for last in between(progress):
            display.show(last)
    return last


def is_whole(progress: Progress | None) -> bool:
    """Whether a document of which this is the last news was added to its end."""
    return progress is not None and progress.stage == "add" and progress.done == progress.total


class _Speed:
    """Tokens per second since the first of them."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def amount(self, progress: Progress) -> str:
        """What there is to say of it."""
        if progress.stage == "check":
            self._begin = time.monotonic()
            return f"{progress.done / 1e6:,.1f} of {progress.total / 1e6:,.1f} MB"
        speed = progress.done / (time.monotonic() - self._begin + 1e-9)
        return f"{progress.done:,} of {progress.total:,} tokens, {speed:,.0f} tokens/s"


VERBS = {"check": "checking", "add": "reading"}


class _Lines(contextlib.AbstractContextManager):
    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream, self._speed, self._said = name, stream, _Speed(), time.monotonic()

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, progress: Progress) -> None:
        amount = self._speed.amount(progress)
        if time.monotonic() - self._said >= EVERY_SECONDS:
            self._said = time.monotonic()
            print(f"{VERBS[progress.stage]} {self._name}: {amount}", file=self._stream, flush=True)


class _Bar(contextlib.AbstractContextManager):
    def __init__(self, name: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeRemainingColumn())
        self._name, self._speed = escape(name), _Speed()
        self._bar = Bar(*columns, console=Console(file=stream))
        self._task, self._stage = self._bar.add_task(f"{VERBS['check']} {self._name}", total=None, amount=""), "check"

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._bar.reset(self._task, description=f"{VERBS[progress.stage]} {self._name}")
        self._bar.update(self._task, total=progress.total, completed=progress.done, amount=self._speed.amount(progress))
