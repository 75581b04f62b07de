"""Logged runs: finds them by name, loads their records, and aligns them by tokens, FLOPs, time or step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanochat.common import UserError, base_dir, read_json, typed_path
from nanochat.tracking.run_log import MC_SUFFIX, METRICS_FILE, RUN_FILE
from nanochat.tracking.sinks import read_metrics

Axis = Literal["tokens", "flops", "time", "effective_step", "step"]
STAGES = ("base", "mid", "sft", "rl")
LOSS = "train/loss_lod0"  # of plain rows; a run without a memory logs it as train/loss
_KEYS = {"tokens": "total_tokens", "flops": "total_training_flops", "time": "total_training_time", "step": "step"}
_SPAN = 11  # records per point of a smoothed curve

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class LoggedRun:
    """A run: name for tables, metrics file, records in order, and `silent`, the seconds since the newest record.

    `info` is the content of run.json: `steps` planned, `identity`, `least`. Without that file it comes from a checkpoint, and
    without any it is empty.
    """

    name: str
    path: Path
    records: list[dict[str, Any]]
    silent: float
    info: Mapping[str, Any]

    @cached_property
    def memory(self) -> bool:
        """Whether the run has a memory."""
        return any(LOSS in record for record in self.records)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Identity of the run; empty if unknown."""
        return self.info.get("identity", {})

    @property
    def steps(self) -> int | None:
        """Planned steps, if known."""
        return self.info.get("steps")

    @property
    def step(self) -> int:
        """Last logged step."""
        return self.records[-1]["step"]

    @property
    def unfinished(self) -> bool:
        """Whether the run is known to have steps left."""
        return self.steps is not None and self.step < self.steps

    def metric(self, name: str) -> str:
        """The name under which this run logs `name`: the loss of plain rows is train/loss without a memory."""
        return "train/loss" if name == LOSS and not self.memory else name

    def values(self, name: str) -> list[float]:
        """The finite values of a metric, in order."""
        metric = self.metric(name)
        return [record[metric] for record in self.records if _finite(record.get(metric))]

    def last(self, name: str) -> Any:
        """The last value of a metric, if any."""
        return next((r[name] for r in reversed(self.records) if r.get(name) is not None), None)

    def curve(self, name: str, axis: Axis) -> Points:
        """(position, value) of each record with a finite value of the metric. Raises `UserError` if the axis is unknown."""
        metric, place = self.metric(name), self._place(axis)
        chosen = [record for record in self.records if _finite(record.get(metric))]
        return [(x, record[metric]) for record in chosen if (x := place(record)) is not None]

    def _place(self, axis: Axis) -> Any:
        """Function from a record to its position on the axis, if it has one."""
        if axis != "effective_step":
            return lambda record: record.get(_KEYS[axis])
        if not self.memory:
            if "max_seq_len" not in self.identity:
                raise UserError(f"the row length of {self.name} is unknown: no {RUN_FILE}, no checkpoint; choose another --x")
            return lambda record: record["total_tokens"] / self.identity["max_seq_len"]
        known = [(r["step"], r["mc/effective_step"]) for r in self.records if _finite(r.get("mc/effective_step"))]
        steps, contexts = zip(*known, strict=True)
        return lambda record: float(np.interp(record["step"], steps, contexts))


def read_run(path: Path, name: str) -> LoggedRun:
    """The run that logs to `path`. Raises `UserError` if there is no record or the file is broken."""
    records: list[dict[str, Any]] = []
    for record in read_metrics(path):
        if records and records[-1]["step"] > record["step"]:  # a resumed run wrote these steps again
            records = [kept for kept in records if kept["step"] < record["step"]]
        records.append(record)
    if not records:
        raise UserError(f"{path} has no record yet; wait for the first, or check whether the run has started")
    return LoggedRun(name, path, records, max(time.time() - path.stat().st_mtime, 0.0), _info(path))


def find_runs(names: Sequence[str]) -> list[LoggedRun]:
    """Runs given as tags (`d4`, `mid/d4`), folders or metrics files; by default the newest baseline and its run with a memory.

    Raises `UserError` if one does not exist.
    """
    paths = [_find(name) for name in names] if names else newest_pair()
    return [read_run(path, label) for path, label in zip(paths, _labels(paths), strict=True)]


def newest_pair() -> list[Path]:
    """Metrics files of the newest baseline and its run with a memory. Raises `UserError` if there is no such pair."""
    found = [path for path in base_dir().glob(f"base_runs/*{MC_SUFFIX}/{METRICS_FILE}") if _baseline_of(path).exists()]
    if not found:
        raise UserError(f"no run in {base_dir() / 'base_runs'} has both a baseline and a run with --mc; train them, or name the runs")
    newest = max(found, key=lambda path: max(path.stat().st_mtime, _baseline_of(path).stat().st_mtime))
    return [_baseline_of(newest), newest]


def smooth(values: Sequence[float]) -> list[float]:
    """Smooths noisy values without lag, so that a falling loss does not read too high.

    LOESS (Cleveland 1979, doi 10.1080/01621459.1979.10481038): each point is that of a weighted least-squares line through the 11
    nearest records, over the logarithm of their number, in which losses fall roughly linearly.
    """
    y = np.asarray(values, dtype=np.float64)
    x = np.log(np.arange(1, len(y) + 1))
    smoothed = []
    for i in range(len(y)):
        first = min(max(i - _SPAN // 2, 0), max(len(y) - _SPAN, 0))
        near = slice(first, first + _SPAN)
        distance = np.abs(x[near] - x[i])
        weight = (1 - (distance / (1.01 * distance.max() or 1.0)) ** 3) ** 3
        weight /= weight.sum()
        offset = x[near] - weight @ x[near]
        spread = weight @ offset**2
        slope = weight @ (offset * y[near]) / spread if spread else 0.0
        fitted = weight @ y[near] + slope * (x[i] - weight @ x[near])
        smoothed.append(float(np.clip(fitted, y[near].min(), y[near].max())))  # a line through a steep fall ends below it
    return smoothed


def reached(points: Points, loss: float) -> float | None:
    """Position at which the smoothed losses first reach `loss`, interpolated linearly; None if they do not."""
    return crossing([x for x, _ in points], smooth([value for _, value in points]), loss)


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """First x at which the line through the points (x, y) is at or below `level`; None if it never is."""
    below = np.flatnonzero(np.asarray(y) <= level)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - level) / (y[i - 1] - y[i]))


def _find(name: str) -> Path:
    path = typed_path(name)
    if path.is_file():
        return path
    if (path / METRICS_FILE).is_file():
        return path / METRICS_FILE
    stage, _, tag = name.rpartition("/")
    folders = [base_dir() / f"{s}_runs" / tag for s in ((stage,) if stage else STAGES)]
    for folder in folders:
        if tag and (folder / METRICS_FILE).is_file():
            return folder / METRICS_FILE
    existing = sorted({f"{path.parts[-3].removesuffix('_runs')}/{path.parts[-2]}" for path in base_dir().glob(f"*_runs/*/{METRICS_FILE}")})
    known = f"; there are {', '.join(existing)}" if existing else ""
    raise UserError(f"no run {name}: no metrics file, no folder with one, and no tag in {base_dir()}{known}")


def _labels(paths: Sequence[Path]) -> list[str]:
    """Shortest unique suffix of each path's folder."""
    folders = [path.resolve().parent.parts for path in paths]
    if len(set(folders)) < len(folders):
        return [f"{path.parent.name} ({number})" for number, path in enumerate(paths, start=1)]
    labels = []
    for parts in folders:
        length = next(n for n in range(1, len(parts) + 1) if sum(other[-n:] == parts[-n:] for other in folders) == 1)
        labels.append("/".join(parts[-length:]))
    return labels


def _baseline_of(path: Path) -> Path:
    return path.parent.with_name(path.parent.name.removesuffix(MC_SUFFIX)) / path.name


def _info(path: Path) -> Mapping[str, Any]:
    """`LoggedRun.info` of the run that logs to `path`."""
    if (path.parent / RUN_FILE).exists():
        return read_json(path.parent / RUN_FILE)
    stage = path.parent.parent.name.removesuffix("_runs")
    checkpoints = path.parent.parent.with_name(f"{stage}_checkpoints") / path.parent.name
    metas = sorted(checkpoints.glob("step_*/meta.json"))
    if not metas:
        return {}
    identity = read_json(metas[-1]).get("identity", {})
    return {"identity": identity} | ({"steps": identity["num_iterations"]} if "num_iterations" in identity else {})


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
