"""Comparison of runs: a table, their curves in one figure, a verdict on comparability, and metrics outside their bounds.

python -m scripts.compare                          the newest baseline and its run with a memory
python -m scripts.compare d4 d4-mc --x time        tags, run folders or metrics files
python -m scripts.compare d4-mc --check            exit code 1 if something is wrong
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mc.eval.metric_bounds import memory_bounds
from nanochat import flags
from nanochat.common import UserError, atomic_write
from nanochat.flags import flag, rest
from nanochat.markdown import escape
from nanochat.report.run_comparison import RunComparison, compare, comparison_markdown, comparison_png, notes_of
from nanochat.tracking.metric_bounds import HEARTBEAT, RUN_BOUNDS, Alert, MetricBound, Watch, alert_of
from nanochat.tracking.run_reader import LOSS, Axis, LoggedRun, find_runs

_ENDINGS = (".png", ".md")
_LABEL, _GAP = 44, 2  # columns of a terminal


@dataclass
class Compare:
    """Compare runs: a table of figures, their curves in one figure, and a verdict on comparability."""

    runs: tuple[str, ...] = rest("tags (d4, mid/d4), run folders or metrics files; none = the newest baseline and its run with --mc")
    x: Axis = flag("tokens", "axis along which runs are aligned; time = seconds in steps")
    metric: str = flag(f"{LOSS},val/bpb", f"metrics to draw, separated by commas; {LOSS} = train/loss for runs without a memory")
    smooth: bool = flag(True, "draw smooth curves over noisy ones")
    target_loss: float | None = flag(None, "loss whose time is reported; none = the worst final one", unit="nats")
    out: str = flag("report/compare.png", "file of the figure (.png), or of a page with table and figure (.md); empty = none")
    json: bool = flag(False, "print figures, verdicts and alerts as JSON")
    check: bool = flag(False, "exit with 1 if runs are not comparable or a metric is out of its bounds at the end")
    targets: bool = flag(False, "print the metric bounds and exit")

    def __post_init__(self) -> None:
        if self.target_loss is not None and not 0 < self.target_loss < math.inf:
            raise ValueError(f"target_loss is {self.target_loss}; it must be a positive number of nats")
        if self.out and not self.out.endswith(_ENDINGS):
            raise ValueError(f"out is {self.out!r}; it must end in {' or '.join(_ENDINGS)}, or be empty")
        if not all(self.metrics):
            raise ValueError(f"metric is {self.metric!r}; give names separated by commas")

    @property
    def metrics(self) -> list[str]:
        """The metrics to draw."""
        return [name.strip() for name in self.metric.split(",")]


def main(argv: list[str] | None = None) -> int:
    """Compares runs and returns the exit code."""
    config = flags.parse(Compare, argv)
    if config.targets:
        print_bounds((*RUN_BOUNDS, *memory_bounds({})), config.json)
        return 0
    runs = find_runs(config.runs)
    for name in config.metrics:
        if not any(run.values(name) for run in runs):
            raise UserError(f"no run has logged {name}; see the keys in {runs[0].path}")
    comparison = compare(runs, config.x, config.metrics, config.target_loss)
    alerts = {run.name: outside(run) for run in runs}
    if config.json:
        record = comparison.record() | {"alerts": {name: [alert.record() for alert in found] for name, found in alerts.items()}}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(as_text(comparison))
        for line in remarks(runs, comparison, alerts):
            print(line)
    drawn = draw(config, runs, comparison, alerts)
    if drawn is not None and not config.json:
        print(f"drawn: {drawn}")
    failed = not comparison.comparable or any(alerts.values())
    if config.check and not config.json:
        print("check: failed" if failed else "check: passed")
    return int(config.check and failed)


def outside(run: LoggedRun) -> list[Alert]:
    """Alerts of metrics out of their bounds at the end of a run, or now, and of a running one that is silent."""
    watch = Watch((*RUN_BOUNDS, *memory_bounds(run.info.get("least", {}))), run.steps or run.step)
    for record in run.records:
        watch.update(record)
    alerts = watch.outside()
    times = [0.0, *run.values("total_training_time")]
    slowest = max((b - a for a, b in zip(times, times[1:], strict=False)), default=0.0)
    judged = HEARTBEAT.rule.judge([run.silent])
    # Long steps are not silence: a run that logs every half hour is late after an hour.
    if run.unfinished and judged is not None and judged.wrong and run.silent > 2 * slowest:
        alerts.append(alert_of(HEARTBEAT, HEARTBEAT.metric, run.step, judged))
    return alerts


def as_text(comparison: RunComparison) -> str:
    """Table for a terminal."""
    rows = [("", *(figures["run"] for figures in comparison.figures)), *comparison.rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        right = "".join(" " * _GAP + cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{label:{min(widths[0], _LABEL)}}{right}")
    return "\n".join(lines)


def remarks(runs: Sequence[LoggedRun], comparison: RunComparison, alerts: dict[str, list[Alert]]) -> list[str]:
    """Lines after the table: verdicts, notes, alerts."""
    lines = []
    for verdict in comparison.verdicts:
        lines += [str(verdict), *(f"note: {note}" for note in verdict.notes)]
    lines += [f"note: {note}" for run in runs for note in notes_of(run)]
    return lines + [f"alert: {name}: {alert.message}" for name, found in alerts.items() for alert in found]


def draw(config: Compare, runs: Sequence[LoggedRun], comparison: RunComparison, alerts: dict[str, list[Alert]]) -> Path | None:
    """Writes the figure, and the page if requested; returns the path of `--out`. Raises `UserError`."""
    if not config.out:
        return None
    out = Path(config.out)
    png = comparison_png(runs, config.x, config.metrics, config.smooth)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {out.parent}: {error.strerror}; choose another --out") from error
    figure = out.with_suffix(".png")
    if png is not None:
        atomic_write(figure, png)
    if out.suffix == ".md":
        lines = [f"- {escape(line)}" for line in remarks(runs, comparison, alerts)]
        shown = [] if png is None else [f"![Curves of the runs]({figure.name})"]
        atomic_write(out, "\n\n".join(["# Comparison", comparison_markdown(comparison), *shown, "\n".join(lines)]) + "\n")
    return out


def print_bounds(bounds: Sequence[MetricBound], as_json: bool) -> None:
    """Prints the metric bounds, for a terminal or as JSON."""
    rows: list[dict[str, Any]] = [bound.row() for bound in bounds]
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['metric']}: {row['meaning']}\n  aim: {row['aim']}; alert: {row['alert']}\n  look at {row['look at']}")


if __name__ == "__main__":
    flags.run(main)
