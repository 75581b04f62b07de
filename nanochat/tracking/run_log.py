"""Log of a training run: the files in its folder (run.json, metrics.jsonl, alerts.jsonl), the terminal and W&B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.common import ensure_dir, write_json
from nanochat.tracking.metric_bounds import RUN_BOUNDS, Alert, MetricBound, Watch
from nanochat.tracking.sinks import JsonlSink, MetricsLogger, Record, Sink, TerminalSink, WandbSink, read_metrics

RUN_FILE, METRICS_FILE, ALERTS_FILE = "run.json", "metrics.jsonl", "alerts.jsonl"
MC_SUFFIX = "-mc"  # of the folders of a run with a memory; a run without one never touches them


def wandb_name(run: str, memory: bool) -> str | None:
    """Name of the W&B run for `--run`; None if W&B is off."""
    return None if run == "dummy" else run + MC_SUFFIX * (memory and not run.endswith(MC_SUFFIX))


def open_metrics(
    resumed: int | None,
    folder: Path,
    *,
    steps: int,
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
    wandb_name: str | None = None,
    rank: int = 0,
    bounds: Sequence[MetricBound] = (),
    least: Mapping[str, float] | None = None,
) -> MetricsLogger:
    """Opens the sinks of a run of `steps` steps; processes other than the first log nothing.

    A run that continues from step `resumed` writes the records of that boundary again. `identity` distinguishes runs, `record`
    describes the run to W&B. `bounds` are watched in addition to `RUN_BOUNDS`, and `least` has the lower limits of some of them, by
    metric, which depend on the run's settings.
    """
    if rank > 0:
        return MetricsLogger([])
    kept = None if resumed is None else resumed - 1
    write_json(ensure_dir(folder) / RUN_FILE, {"steps": steps, "identity": dict(identity), "least": dict(least or {})})
    records = JsonlSink(folder / METRICS_FILE, kept)
    before = [] if kept is None else read_metrics(records.path)
    remote = None if wandb_name is None else WandbSink(wandb_name, record, folder, resume_step=kept)
    terminal = TerminalSink(steps)  # after what may fail: only `close` ends a live bar
    sinks: list[Sink] = [records, terminal]
    notify = [lambda alert: terminal.say(f"alert: step {alert.step}: {alert.message}")]
    if remote is not None:
        sinks.append(remote)
        notify.append(lambda alert: remote.mark(alert.metric, f"step {alert.step}: {alert.message}"))
    sinks.append(AlertSink(folder, Watch((*RUN_BOUNDS, *bounds), steps), notify, before, kept))
    return MetricsLogger(sinks)


class AlertSink(Sink):
    """Watches the records of a run: writes each alert to `folder`/alerts.jsonl and passes it to each function of `notify`.

    `before` are the records that a resumed run keeps, up to step `resume_step`; their alerts are not repeated.
    """

    def __init__(
        self,
        folder: Path,
        watch: Watch,
        notify: Iterable[Callable[[Alert], None]],
        before: Iterable[Record] = (),
        resume_step: int | None = None,
    ) -> None:
        self._watch, self._notify = watch, tuple(notify)
        self._file = JsonlSink(folder / ALERTS_FILE, resume_step)
        for record in before:
            watch.update(record)

    def log(self, record: Record) -> None:
        for alert in self._watch.update(record):
            self.alert(alert)

    def alert(self, alert: Alert) -> None:
        self._file.log(alert.record())
        for notify in self._notify:
            notify(alert)

    def close(self) -> None:
        self._file.close()
