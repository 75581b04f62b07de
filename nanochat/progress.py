"""Progress display of long jobs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import Literal, Self, TextIO

EVERY_SECONDS = 10.0  # between two plain lines


class ProgressDisplay:
    """Displays the progress of a job on `stream` (default: stdout), as a live bar if that is a terminal; threads may share it.

    A bar also shows the time that `clock` names. A context manager; `is_live` is true if there is a bar.
    """

    def __init__(self, stream: TextIO | None = None, clock: Literal["elapsed", "remaining"] | None = None) -> None:
        self._stream, self._label, self._printed = stream or sys.stdout, "", time.monotonic()
        self.is_live = self._stream.isatty()
        if self.is_live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TaskProgressColumn()]
            columns.append(TextColumn("{task.fields[text]}", markup=False))
            if clock:
                columns.append(TimeElapsedColumn() if clock == "elapsed" else TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream), refresh_per_second=2)
            self._task = self._bar.add_task("", total=None, text="")
            self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, label: str) -> None:
        """Begins a stage of the job, whose progress starts from 0."""
        self._label = label
        if self.is_live:
            self._bar.reset(self._task, total=None, description=label)

    def show(self, done: float, total: float, text: str) -> None:
        """Shows the progress, `done` of `total`, and `text`; as a plain line at most every `EVERY_SECONDS`."""
        if self.is_live:
            self._bar.update(self._task, completed=done, total=total, text=text)
        elif time.monotonic() - self._printed >= EVERY_SECONDS:
            self._printed = time.monotonic()
            self.say(f"{self._label}: {text}" if self._label else text)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self.is_live:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Stops updating the bar."""
        if self.is_live:
            self._bar.stop()


class DownloadProgress(ProgressDisplay):
    """Displays the progress of downloading `files` files, called `noun`."""

    def __init__(self, files: int, noun: str = "shards") -> None:
        super().__init__(clock="elapsed")
        self._files, self._noun, self._lock = files, noun, threading.Lock()
        self._done, self._bytes, self._begun = 0, 0, time.monotonic()
        self.advance(0)

    def advance(self, size: int) -> None:
        """Counts `size` more bytes."""
        with self._lock:
            self._bytes += size
            self.show(self._done, self._files, self._amount())

    def done(self, name: str) -> None:
        """Counts the file `name` as complete."""
        with self._lock:
            self._done += 1
            if self.is_live:
                self.show(self._done, self._files, self._amount())
            else:
                self.say(f"{name}: verified; {self._amount()}")

    def _amount(self) -> str:
        megabytes, seconds = self._bytes / 1e6, time.monotonic() - self._begun + 1e-9
        return f"{self._done}/{self._files} {self._noun}, {megabytes:,.1f} MB at {megabytes / seconds:,.1f} MB/s"
