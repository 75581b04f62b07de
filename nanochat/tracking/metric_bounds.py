"""What the metrics of a run should be, as data, and the rules that say whether they are.

Values are what a metric's records hold, in order; those that are no finite numbers do not count. The first tenth of a run's steps
is warm-up: what is logged there does not count either (rates still rise, kernels are still compiled).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

WARMUP = 0.1  # of the steps of a run
LEVEL = 5  # records whose median is a metric's level
TREND = 12  # records that a trend takes at least
SILENT = 15 * 60.0  # seconds


class Judgement(NamedTuple):
    """`value` is what was judged; `wrong` says what is wrong with it, None where nothing is; `reached`: the aim is."""

    value: float
    wrong: str | None
    reached: bool


class Rule(Protocol):
    """What a metric should be."""

    @property
    def aim(self) -> str:
        """What is aimed at, in words."""
        ...

    @property
    def band(self) -> str:
        """When there is an alert, in words."""
        ...

    def judge(self, values: Sequence[float]) -> Judgement | None:
        """Of the values of a metric so far; None where they are too few."""
        ...


@dataclass(frozen=True)
class Band:
    """The metric's level, the median of its last `window` values, lies between two bounds. None: no bound on this side.

    The alert's bounds are wider than those that are aimed at. `least` values are needed for a judgement.
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
    """A band for a share, which must not flip either: at most 3 times from one end to the other within its last 8 values.

    The ends are the lowest and the highest tenth of 0 … 1.
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

    There is an alert where it is above by more than the standard error of their difference, so that noise alone seldom gives one.
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
    """The mean of the last third of the values is nearer to `goal` than that of the third before, or as near.

    There is an alert where it is further away by more than `slack` and by more than two standard errors of their difference, or
    where its distance is more than `furthest` by two standard errors of its own.
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
        if now - self.furthest > math.sqrt(2) * error:  # the error of one of two like means is that of their difference by √2
            wrong = f"{now:.3g} from {self.goal:g}, more than {self.furthest:g}"
        elif now - was > max(self.slack, 2 * error):
            wrong = f"moving away from {self.goal:g}: {before:.4g} a third of the run before"
        return Judgement(last, wrong, now <= max(was, self.slack))


@dataclass(frozen=True)
class MetricBound:
    """What the metrics that match `metric`, a name or a pattern with *, should be, what they mean, and where to look where they
    are not."""

    metric: str
    rule: Rule
    meaning: str
    look_at: str

    def row(self) -> dict[str, str]:
        """As words for a table."""
        return {
            "metric": self.metric,
            "aim": self.rule.aim,
            "alert": self.rule.band,
            "meaning": self.meaning,
            "look at": self.look_at,
        }


HEARTBEAT = MetricBound(
    "heartbeat",
    Band(high=SILENT, alert_high=SILENT, window=1, least=1),
    "seconds since the newest record of a run that has not finished",
    "whether the process still runs and the network is there; run the same command again to resume",
)
RUN_BOUNDS = (
    MetricBound(
        "train/mfu",
        Band(0.45, 0.55, alert_low=0.40),
        "share of the device's peak that the model's FLOPs take; logged where the peak is known",
        "--device-batch-size, train/grad_accum_steps and train/time/data: the device waits for the host",
    ),
    HEARTBEAT,
)


@dataclass(frozen=True)
class Alert:
    """A metric that is out of its band."""

    step: int
    metric: str
    value: float
    band: str
    message: str

    def record(self) -> dict[str, Any]:
        """As a line of alerts.jsonl."""
        return {"step": self.step, "metric": self.metric, "value": self.value, "band": self.band, "message": self.message}


class Watch:
    """The targets of a run of `steps` steps, and what its records so far say of them.

    A metric that leaves its band gives one alert; the next one comes when it has been where it is aimed at in between, so that one
    that wavers about a bound is not told of again and again.
    """

    def __init__(self, targets: Sequence[MetricBound], steps: int) -> None:
        self._targets, self._first = tuple(targets), WARMUP * steps
        self._values: dict[str, list[float]] = {}
        self._told: set[str] = set()
        self._outside: dict[str, Alert] = {}

    def update(self, record: Mapping[str, Any]) -> list[Alert]:
        """Takes a record in; returns what has left its band with it."""
        new = []
        for metric, value in record.items():
            target = None if record["step"] < self._first else self._target(metric)
            if target is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            values = self._values.setdefault(metric, [])
            values.append(value)
            judged = target.rule.judge(values)
            if judged is None:
                continue
            self._outside.pop(metric, None)
            if judged.wrong is not None:
                self._outside[metric] = alert_of(target, metric, record["step"], judged)
                if metric not in self._told:
                    new.append(self._outside[metric])
                self._told.add(metric)
            elif judged.reached:
                self._told.discard(metric)
        return new

    def outside(self) -> list[Alert]:
        """What is out of its band after the last record."""
        return list(self._outside.values())

    def _target(self, metric: str) -> MetricBound | None:
        return next((target for target in self._targets if fnmatch.fnmatchcase(metric, target.metric)), None)


def alert_of(target: MetricBound, metric: str, step: int, judged: Judgement) -> Alert:
    """The alert of a judgement that finds something wrong."""
    message = f"{metric} is {judged.value:.4g}, {judged.wrong} (aim: {target.rule.aim}); look at {target.look_at}"
    return Alert(step, metric, judged.value, target.rule.band, message)


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} … {high:g}"


def _thirds(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(mean of the third before the last, mean of the last, standard error of their difference); None where there is too little."""
    if len(values) < TREND:
        return None
    size = len(values) // 3
    before, last = np.asarray(values[-2 * size : -size]), np.asarray(values[-size:])
    return float(before.mean()), float(last.mean()), float(np.sqrt((before.var(ddof=1) + last.var(ddof=1)) / size))
