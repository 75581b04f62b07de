"""Saving in the background: a thread writes a snapshot while training goes on."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass

from nanochat.checkpoint.processes import Processes
from nanochat.checkpoint.snapshot import Snapshot
from nanochat.checkpoint.store import CheckpointStore

_LOOK_SECONDS = 0.1  # a thread that waits for another does not handle signals meanwhile


@dataclass(frozen=True)
class Ended:
    """A save that has ended: its step, the bytes and seconds of this process, and its error, if any."""

    step: int
    bytes: int
    seconds: float
    error: BaseException | None


class BackgroundSaves:
    """Saves in `store`, one at a time. `processes` meet in their threads, so they must not be those that meet for training.

    A thread: hashing and writing let go of the interpreter's lock, and a snapshot need not be copied again. It does not keep the
    process alive; a save that dies with it is as one that was killed.
    """

    def __init__(self, store: CheckpointStore, processes: Processes) -> None:
        self._store, self._processes = store, processes
        self._thread: threading.Thread | None = None
        self._ended: Ended | None = None

    def begin(self, snapshot: Snapshot) -> None:
        """Begins to write `snapshot`; none may be being written."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._write, args=(snapshot, snapshot.bytes), name="save", daemon=True)
        self._thread.start()

    def ended(self) -> Ended | None:
        """The save in flight, if it has ended; it is told once."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        return self._ended

    def wait(self) -> Ended | None:
        """The save in flight, if there is one, when it has ended."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
        return self.ended()

    def _write(self, snapshot: Snapshot, size: int) -> None:
        begin, error = time.perf_counter(), None
        try:
            self._store.write(snapshot, self._processes)
        except BaseException as caught:  # handed to who waits, whatever it is
            error = caught
            snapshot.files.clear()
            _let_go(error)
        self._ended = Ended(snapshot.step, size, time.perf_counter() - begin, error)


def _let_go(error: BaseException | None) -> None:
    """Empties the frames in which `error` and its causes were raised, which would keep what is not written in memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
