"""Acceptance bands for metrics, and the rules that raise alerts.

Values are those of a metric's records, in order, without non-finite ones and without those of the first tenth of a run's steps
(warm-up: learning rates still rise, kernels are still compiled).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

WARMUP = 0.1  # fraction of the steps of a run
LEVEL = 5  # records whose median is the level of a metric
TREND = 12  # minimum number of records for a trend
SILENT = 15 * 60.0  # seconds


class Judgement(NamedTuple):
    """Result of a rule: the value that was judged, what is wrong with it (if anything), and whether the aim is reached."""

    value: float
    wrong: str | None
    reached: bool


class Rule(Protocol):
    """Rule for the values of a metric: its `aim`, and its `band`, outside of which there is an alert, both in words."""

    @property
    def aim(self) -> str: ...

    @property
    def band(self) -> str: ...

    def judge(self, values: Sequence[float]) -> Judgement | None:
        """Judges the values of a metric so far; None if there are too few."""


@dataclass(frozen=True)
class Band:
    """The level of a metric, the median of its last `window` values, lies between two bounds; None = no bound on this side.

    The bounds of the alert are wider than those of the aim. A judgement needs at least `least` values.
    """

    low: float | None = None
    high: float | None = None
    alert_low: float | None = None
    alert_high: float | None = None
    window: int = LEVEL
    least: int = LEVEL

    @property
    def aim(self) -> str:
        return _between(self.low, self.high)

    @property
    def band(self) -> str:
        bounds = (("below", self.alert_low), ("above", self.alert_high))
        return " or ".join(f"{side} {bound:g}" for side, bound in bounds if bound is not None)

    def judge(self, values: Sequence[float]) -> Judgement | None:
        if len(values) < self.least:
            return None
        level = float(np.median(values[-self.window :]))
        wrong = None
        if self.alert_low is not None and level < self.alert_low:
            wrong = f"below {self.alert_low:g}"
        elif self.alert_high is not None and level > self.alert_high:
            wrong = f"above {self.alert_high:g}"
        above = self.low is None or level >= self.low
        return Judgement(level, wrong, above and (self.high is None or level <= self.high))


@dataclass(frozen=True)
class Steady:
    """A band for a fraction that must not flip between the ends of 0 … 1 more than `flips` times in its last `window` values.

    The ends are the lowest and the highest tenth.
    """

    bounds: Band
    window: int = 8
    flips: int = 3

    @property
    def aim(self) -> str:
        return self.bounds.aim

    @property
    def band(self) -> str:
        return f"{self.bounds.band}, or flipping between 0 and 1"

    def judge(self, values: Sequence[float]) -> Judgement | None:
        ends = [value > 0.5 for value in values[-self.window :] if value <= 0.1 or value >= 0.9]
        flips = sum(a != b for a, b in zip(ends, ends[1:], strict=False))
        judged = self.bounds.judge(values)
        if flips > self.flips:
            return Judgement(values[-1], f"flipping between 0 and 1, {flips} times in {self.window} records", False)
        return judged


@dataclass(frozen=True)
class Falling:
    """The mean of the last third of the values is below that of the third before.

    It is an alert if it is above by more than the standard error of their difference, so that noise alone rarely raises one.
    """

    aim: str = "falling"
    band: str = "flat or rising"

    def judge(self, values: Sequence[float]) -> Judgement | None:
        if (thirds := _thirds(values)) is None:
            return None
        before, last, error = thirds
        wrong = f"not falling: {before:.4g} a third of the run before" if last - before > error else None
        return Judgement(last, wrong, last < before)


@dataclass(frozen=True)
class Toward:
    """The mean of the last third of the values is at least as near to `goal` as that of the third before.

    It is an alert if it is further away by more than `slack` and by more than two standard errors of their difference, or if its
    distance exceeds `furthest` by more than two standard errors.
    """

    goal: float
    slack: float
    furthest: float

    @property
    def aim(self) -> str:
        return f"towards {self.goal:g}"

    @property
    def band(self) -> str:
        return f"further from {self.goal:g} than before by {self.slack:g}, or by more than {self.furthest:g} in all"

    def judge(self, values: Sequence[float]) -> Judgement | None:
        if (thirds := _thirds(values)) is None:
            return None
        before, last, error = thirds
        was, now = abs(before - self.goal), abs(last - self.goal)
        wrong = None
        if now - self.furthest > math.sqrt(2) * error:  # a mean has 1/√2 of the error of the difference
            wrong = f"{now:.3g} from {self.goal:g}, more than {self.furthest:g}"
        elif now - was > max(self.slack, 2 * error):
            wrong = f"moving away from {self.goal:g}: {before:.4g} a third of the run before"
        return Judgement(last, wrong, now <= max(was, self.slack))


@dataclass(frozen=True)
class MetricBound:
    """Bound of the metrics that match `metric` (a name or a pattern with *): rule, meaning, and what to look at after an alert."""

    metric: str
    rule: Rule
    meaning: str
    look_at: str

    def row(self) -> dict[str, str]:
        """Row of a table."""
        words = {"aim": self.rule.aim, "alert": self.rule.band, "meaning": self.meaning, "look at": self.look_at}
        return {"metric": self.metric, **words}


HEARTBEAT = MetricBound(
    "heartbeat",
    Band(high=SILENT, alert_high=SILENT, window=1, least=1),
    "seconds since the newest record of a run that has not finished",
    "whether the process still runs and the network is up; run the same command again to resume",
)
RUN_BOUNDS = (
    MetricBound(
        "train/mfu",
        Band(0.45, 0.55, alert_low=0.38),  # bf16 on H100s, where others measured 0.47 to 0.51; not yet measured here
        "share of the device's peak that the model's FLOPs take; logged if the peak is known",
        "--device-batch-size, train/grad_accum_steps and train/time/data: the device waits for the host",
    ),
    HEARTBEAT,
)


@dataclass(frozen=True)
class Alert:
    """Metric that is out of its band."""

    step: int
    metric: str
    value: float
    band: str
    message: str

    def record(self) -> dict[str, Any]:
        """Line of alerts.jsonl."""
        return dict(vars(self))


class Watch:
    """Checks the records of a run of `steps` steps against `bounds`.

    A metric that leaves its band raises one alert, and the next one only after it has reached its aim in between, so that a metric
    that wavers around a bound does not raise many.
    """

    def __init__(self, bounds: Sequence[MetricBound], steps: int) -> None:
        self._bounds, self._first = tuple(bounds), WARMUP * steps
        self._values: dict[str, list[float]] = {}
        self._alerted: set[str] = set()
        self._outside: dict[str, Alert] = {}

    def update(self, record: Mapping[str, Any]) -> list[Alert]:
        """Adds a record; returns the alerts of metrics that have just left their bands."""
        new = []
        for metric, value in record.items():
            bound = None if record["step"] < self._first else self._bound(metric)
            if bound is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            values = self._values.setdefault(metric, [])
            values.append(value)
            judged = bound.rule.judge(values)
            if judged is None:
                continue
            self._outside.pop(metric, None)
            if judged.wrong is not None:
                self._outside[metric] = alert_of(bound, metric, record["step"], judged)
                if metric not in self._alerted:
                    new.append(self._outside[metric])
                self._alerted.add(metric)
            elif judged.reached:
                self._alerted.discard(metric)
        return new

    def outside(self) -> list[Alert]:
        """Alerts of the metrics that are out of their bands after the last record."""
        return list(self._outside.values())

    def _bound(self, metric: str) -> MetricBound | None:
        return next((bound for bound in self._bounds if fnmatch.fnmatchcase(metric, bound.metric)), None)


def alert_of(bound: MetricBound, metric: str, step: int, judged: Judgement) -> Alert:
    """Alert for a judgement that finds something wrong."""
    message = f"{metric} is {judged.value:.4g}, {judged.wrong} (aim: {bound.rule.aim}); look at {bound.look_at}"
    return Alert(step, metric, judged.value, bound.rule.band, message)


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} … {high:g}"


def _thirds(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(mean of the last third but one, mean of the last, standard error of their difference); None if there are too few values."""
    if len(values) < TREND:
        return None
    size = len(values) // 3
    before, last = np.asarray(values[-2 * size : -size]), np.asarray(values[-size:])
    return float(before.mean()), float(last.mean()), float(np.sqrt((before.var(ddof=1) + last.var(ddof=1)) / size))
