"""What a run leaves in its folder while it trains: run.json, what it is; metrics.jsonl, its records; alerts.jsonl, its alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.common import ensure_dir, write_json
from nanochat.tracking.metric_bounds import RUN_BOUNDS, Alert, MetricBound, Watch
from nanochat.tracking.sinks import JsonlSink, MetricsLogger, Record, Sink, TerminalSink, WandbSink, read_metrics

METRICS_FILE, RUN_FILE = "metrics.jsonl", "run.json"
MC_SUFFIX = "-mc"  # of the folders of a run with a memory, which a run without one never touches
ALERTS_FILE = "alerts.jsonl"


def open_metrics(
    wandb_name: str | None,
    record: Mapping[str, Any],
    steps: int,
    folder: Path,
    resumed: int | None,
    rank: int,
    identity: Mapping[str, Any],
    targets: Sequence[MetricBound] = (),
    least: Mapping[str, float] | None = None,
) -> MetricsLogger:
    """The sinks of a run of `steps`: those of the first process, the others are silent.

    `record` is what W&B is told about the run, under `wandb_name` (None = no W&B). A run that continues from step `resumed`
    writes the records of that boundary again. `identity` is what makes the run this run, for those who compare runs; `targets`
    are watched beside `RUN_BOUNDS`, and `least` is what some of them take from the run's settings.
    """
    if rank > 0:
        return MetricsLogger([])
    kept = None if resumed is None else resumed - 1
    write_json(ensure_dir(folder) / RUN_FILE, {"steps": steps, "identity": dict(identity), "least": dict(least or {})})
    records = JsonlSink(folder / METRICS_FILE, kept)
    before = [] if kept is None else read_metrics(records.path)
    terminal = TerminalSink(steps)
    sinks: list[Sink] = [records, terminal]
    tell = [lambda alert: terminal.say(f"alert: step {alert.step}: {alert.message}")]
    if wandb_name is not None:
        remote = WandbSink(wandb_name, record, folder, resume_step=kept)
        sinks.append(remote)
        tell.append(lambda alert: remote.mark(alert.metric, f"step {alert.step}: {alert.message}"))
    sinks.append(AlertSink(folder, Watch((*RUN_BOUNDS, *targets), steps), tell, before, kept))
    return MetricsLogger(sinks)


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


def wandb_name(run: str, memory: bool) -> str | None:
    """Name of the W&B run that `--run` asks for; None where it asks for none."""
    return None if run == "dummy" else run + MC_SUFFIX * (memory and not run.endswith(MC_SUFFIX))
