"""Alerts of a run that trains: one line when a metric leaves its band, in the run's folder and where else the run is told of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from nanochat.metrics import JsonlSink, Record
from nanochat.targets import Alert, Watch

ALERTS_FILE = "alerts.jsonl"


class AlertSink:
    """Watches the records of a run: each alert is a line of `folder`/alerts.jsonl and is handed to every one of `tell`.

    `before` are the records that a continued run keeps, which end at step `resume_step`: what they left was told of then.
    """

    def __init__(
        self,
        folder: Path,
        watch: Watch,
        tell: Iterable[Callable[[Alert], None]],
        before: Iterable[Record] = (),
        resume_step: int | None = None,
    ) -> None:
        self._watch, self._tell = watch, tuple(tell)
        self._file = JsonlSink(folder / ALERTS_FILE, resume_step)
        for record in before:
            watch.update(record)

    def log(self, record: Record) -> None:
        for alert in self._watch.update(record):
            self._file.log(alert.record())
            for tell in self._tell:
                tell(alert)

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        self._file.close()
