"""How downloads are getting on: plain lines, or a bar on a terminal."""

from __future__ import annotations

import threading
import time
from typing import Self


class Progress:
    """Tells how downloads are getting on, in plain lines; safe to call from several threads."""

    every_seconds = 10.0

    def __init__(self, files: int, noun: str = "shards") -> None:
        self._noun = noun
        self._lock = threading.Lock()
        self._files, self._done, self._bytes = files, 0, 0
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def advance(self, size: int) -> None:
        """Hears of `size` bytes more."""
        with self._lock:
            self._bytes += size
            now = time.monotonic()
            if due := now - self._last >= self.every_seconds:
                self._last = now
        if due:
            self.say(f"{self._done} of {self._files} {self._noun}, {self._amount()}")

    def done(self, name: str) -> None:
        """Hears of a file that is complete."""
        with self._lock:
            self._done += 1
        self.say(f"{name}: verified; {self._done} of {self._files} {self._noun}, {self._amount()}")

    def _amount(self) -> str:
        return f"{self._bytes / 1e6:,.1f} MB at {self._bytes / 1e6 / (time.monotonic() - self._begin + 1e-9):,.1f} MB/s"


class BarProgress(Progress):
    """The same as a bar on a terminal."""

    def __init__(self, files: int, noun: str = "shards") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        super().__init__(files, noun)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun + " · {task.fields[amount]}"), TimeElapsedColumn())
        self._bar = Bar(*columns)
        self._task = self._bar.add_task("", total=files, amount="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def advance(self, size: int) -> None:
        with self._lock:
            self._bytes += size
        self._bar.update(self._task, amount=self._amount())

    def done(self, name: str) -> None:
        with self._lock:
            self._done += 1
        self._bar.update(self._task, completed=self._done, amount=self._amount())
