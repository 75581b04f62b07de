"""Saves of a run: copied at a step boundary, written while it trains on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from nanochat.checkpoint.background import BackgroundSaves, Ended
from nanochat.checkpoint.processes import OtherProcessError, together
from nanochat.checkpoint.snapshot import Tensors
from nanochat.checkpoint.store import CheckpointStore, SaveError
from nanochat.runtime.device import Runtime
from nanochat.runtime.folder_lock import FolderLock
from nanochat.runtime.lost_peer import failed_collective
from nanochat.tracking.metric_bounds import Alert
from nanochat.tracking.sinks import MetricsLogger

TORCHRUN_SECONDS = 30.0  # from a SIGTERM to its SIGKILL, unless its user sets another time


class Saves:
    """Saves of a run to `store`, one at a time; the context manager waits for the last one, unless the processes have lost each other.

    A disk that does not take a save is an alert. `saved` is the step to begin with, that of a checkpoint to resume from. All processes
    make one at the same time and call `begin` at the same steps.
    """

    def __init__(
        self, store: CheckpointStore, runtime: Runtime, lock: FolderLock | None, metrics: MetricsLogger, saved: int | None = None
    ) -> None:
        self.step = saved  # of the newest save that is written or in flight; None after one that failed
        self._store, self._runtime, self._lock, self._metrics = store, runtime, lock, metrics
        self._background = BackgroundSaves(store, runtime.in_background())
        self._copying = 0.0  # seconds that the save in flight has kept training waiting
        self._warned = False

    def begin(self, step: int, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """Copies the state and begins to write it; waits first for the save in flight, if any. The run's lock must still be its own."""
        started = time.perf_counter()
        if self._report(self._background.ended()) is None:
            earlier = self._report(self._background.wait())
            if earlier is not None:
                self._metrics.say(f"step {step}: waited {time.perf_counter() - started:.1f} s for the checkpoint of step {earlier.step}")
        with together(self._runtime, f"save in {self._store.folder}"):
            if self._lock is not None:
                self._lock.check()
        self.step = None
        self._background.begin(self._store.snapshot(step, tensors, meta, self._runtime))
        self.step, self._copying = step, time.perf_counter() - started

    def look(self) -> None:
        """Reports the save in flight if it has ended."""
        self._report(self._background.ended())

    def finish(self, last: bool = False) -> bool:
        """Waits for the save in flight; returns whether there is none that failed. The error of the `last` one is raised."""
        ended = self._background.wait()
        if last and ended is not None and ended.error is not None:
            raise ended.error
        self._report(ended)
        return ended is None or ended.error is None

    def __enter__(self) -> Saves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or (isinstance(error, Exception) and failed_collective(error) is None):
            self.finish()

    def _report(self, ended: Ended | None) -> Ended | None:
        """Says how a save has ended; raises its error, if that is not the disk's or another process's."""
        if ended is None:
            return None
        if ended.error is None:
            self._metrics.say(
                f"step {ended.step}: checkpoint written in {ended.seconds:.1f} s ({ended.bytes / 1e6:,.1f} MB by this process), "
                f"training waited {self._copying:.1f} s"
            )
            self._warn(2 * ended.seconds)
        elif isinstance(ended.error, SaveError | OtherProcessError):
            self.step = None
            message = f"{ended.error}; training goes on and saves again when that is due, at the latest at its end"
            self._metrics.alert(Alert(ended.step, "checkpoint", ended.step, "not saved", message))
        else:
            raise ended.error
        return ended

    def _warn(self, seconds: float) -> None:
        """Says once that a run that is stopped by torchrun may not have the `seconds` to save itself."""
        if self._warned or "TORCHELASTIC_RUN_ID" not in os.environ:
            return
        limit = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TORCHRUN_SECONDS))  # torchrun has read it too
        if seconds > limit:
            self._warned = True
            self._metrics.say(
                f"stopping may take {seconds:.0f} s, for two saves; torchrun kills its processes {limit:g} s after SIGTERM, unless its "
                "--shutdown-timeout is longer"
            )
