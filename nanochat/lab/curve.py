"""A run's metrics: its curve with the tokens to a target, measured or extrapolated, and a summary of pace, losses and stability."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanochat.tracking.run_reader import crossing

Records = Sequence[Mapping[str, Any]]

FINAL_SHARE = 0.05  # of the run's tokens, over which the final training loss is averaged
SPIKE = 0.10  # a relative rise of the training loss above its minimum so far that counts as an instability
METHOD = "power_law"  # of extrapolation
FIRST_SHARE = 0.2  # of the tokens, excluded from the fit: the start does not follow a power law
LEAST_POINTS = 6  # of a fit
EXPONENTS = np.geomspace(0.05, 2.0, 60)  # tried by a fit
DRAWS = 200  # of the noise, for the interval
CONFIDENCE = 0.9
MOST_CORRELATION = 0.9  # of the noise of neighbouring points
FARTHEST = 10.0  # crossings beyond this multiple of the run's tokens are discarded
_PARAMETERS = 3  # of the power law


@dataclass(frozen=True)
class RunCurve:
    """The target metric against tokens, both fp64 [points], tokens ascending."""

    tokens: np.ndarray
    values: np.ndarray

    def crossing(self, level: float) -> float | None:
        """Tokens at which the metric is first at most `level`, interpolated between points; None if it never is."""
        return crossing(self.tokens, self.values, level)


@dataclass(frozen=True)
class RunSummary:
    """Summary of a finished run. Times are in seconds of training steps, without evaluation and saving."""

    tokens: int
    flops: float
    wall_seconds: float  # including compiling and hiccups of the machine
    tok_per_sec: float  # median
    step_ms: float  # median
    final_loss: float  # mean of train/loss over the last 5 % of the tokens
    min_bpb: float | None
    peak_mem_mib: float
    spike: float  # largest relative rise of train/loss above its minimum so far

    @property
    def steady_seconds(self) -> float:
        """Seconds of the run at its median pace, without compiling and hiccups of the machine."""
        return self.tokens / self.tok_per_sec


@dataclass(frozen=True)
class PowerLaw:
    """L(t) = floor + scale·t^(−exponent)."""

    floor: float
    scale: float
    exponent: float

    def at(self, t: np.ndarray) -> np.ndarray:
        """L at t [points] > 0."""
        return self.floor + self.scale * t**-self.exponent

    def crossing(self, level: float) -> float:
        """The t at which L is `level`; infinite if there is none."""
        if level <= self.floor or self.scale <= 0:
            return math.inf
        return float(np.exp(min(math.log(self.scale / (level - self.floor)) / self.exponent, 700.0)))


@dataclass(frozen=True)
class Extrapolation:
    """Tokens at the crossing and the bounds of its interval, which holds the truth with probability `CONFIDENCE`."""

    tokens: float
    low: float
    high: float


def read_curve(records: Records, metric: str) -> RunCurve:
    """Points of `metric`; non-finite values are left out."""
    points = [(r["total_tokens"], r[metric]) for r in records if r.get(metric) is not None]
    tokens, values = zip(*points, strict=True) if points else ((), ())
    return RunCurve(np.array(tokens, dtype=np.float64), np.array(values, dtype=np.float64))


def read_summary(records: Records) -> RunSummary | None:
    """Summary of a run; None unless it has logged two intervals with a finite loss."""
    steps = [r for r in records if r.get("train/dt") is not None]
    losses = [(r["total_tokens"], r["train/loss"]) for r in steps if r.get("train/loss") is not None]
    if len(steps) < 2 or not losses:
        return None
    settled = steps[1:]  # the first interval includes compiling
    end = max(r["total_tokens"] for r in records)
    last = [loss for tokens, loss in losses if tokens > (1 - FINAL_SHARE) * end] or [losses[-1][1]]
    least, spike = losses[0][1], 0.0
    for _, loss in losses:
        least = min(least, loss)
        spike = max(spike, loss / least - 1)
    bpb = [r["val/bpb"] for r in records if r.get("val/bpb") is not None]
    return RunSummary(
        tokens=end,
        flops=max(r["total_training_flops"] for r in records),
        wall_seconds=max(r["total_training_time"] for r in records),
        tok_per_sec=statistics.median(r["train/tok_per_sec"] for r in settled),
        step_ms=1e3 * statistics.median(r["train/dt"] for r in settled),
        final_loss=statistics.fmean(last),
        min_bpb=min(bpb) if bpb else None,
        peak_mem_mib=max(r["train/peak_mem_mib"] for r in steps),
        spike=spike,
    )


def extrapolated(curve: RunCurve, target: float, seed: int = 0) -> Extrapolation | None:
    """Tokens at which the curve would be at `target`; None with too few points, or if it would not be within `FARTHEST`."""
    later = curve.tokens >= FIRST_SHARE * curve.tokens[-1] if len(curve.tokens) else np.zeros(0, bool)
    t, y = curve.tokens[later], curve.values[later]
    if len(t) < LEAST_POINTS:
        return None
    law = fit(t, y)
    crossing = law.crossing(target)
    if crossing > FARTHEST * t[-1]:
        return None
    again = [PowerLaw(*row).crossing(target) for row in _fits(t, _redrawn(law.at(t), y, seed))]
    low, high = np.quantile(again, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    return Extrapolation(crossing, float(min(low, crossing)), float(max(high, crossing)))


def fit(t: np.ndarray, y: np.ndarray) -> PowerLaw:
    """Least-squares fit of a power law to y [points] at t [points] > 0."""
    return PowerLaw(*_fits(t, y[None])[0])


def r_squared(y: np.ndarray, fitted: np.ndarray) -> float:
    """Coefficient of determination: the share of the variance of y that the fit explains."""
    spread = np.square(y - y.mean()).sum()
    return float(1 - np.square(y - fitted).sum() / spread) if spread > 0 else math.nan


def _redrawn(fitted: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Curves [DRAWS, points]: the fit plus AR(1) noise with the size and correlation of the residuals.

    The fit absorbs some of both, which is corrected for its three parameters.
    """
    rng = np.random.default_rng(seed)
    n = len(y)
    residuals = y - fitted
    spread = np.square(residuals).sum()
    lag = float((residuals[1:] * residuals[:-1]).sum() / spread) if spread > 0 else 0.0
    correlation = min(max((lag * n + _PARAMETERS) / (n - 2 * _PARAMETERS), 0.0), MOST_CORRELATION)
    size = math.sqrt(spread / (n - _PARAMETERS) * (1 + 2 * _PARAMETERS * correlation / (n * (1 - correlation))))
    noise = rng.standard_normal((DRAWS, n)) * size
    innovation = math.sqrt(1 - correlation**2)
    for i in range(1, n):
        noise[:, i] = correlation * noise[:, i - 1] + innovation * noise[:, i]
    return fitted + noise


def _fits(t: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """(floor, scale, exponent) [curves, 3] for each row of curves [curves, points]."""
    unit = t / t[-1]  # well conditioned
    coarse = _search(unit, curves, np.broadcast_to(EXPONENTS, (len(curves), len(EXPONENTS))))
    step = EXPONENTS[1] / EXPONENTS[0]
    finer = coarse[:, 2:] * np.geomspace(1 / step, step, 41)
    best = _search(unit, curves, np.clip(finer, EXPONENTS[0], EXPONENTS[-1]))
    best[:, 1] *= t[-1] ** best[:, 2]
    return best


def _search(t: np.ndarray, curves: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """(floor, scale, exponent) [curves, 3] of the best of `exponents` [curves, tries] for each curve."""
    x = t ** -exponents[:, :, None]  # (curves, tries, points)
    y = curves[:, None, :]
    mean_x, mean_y = x.mean(-1), y.mean(-1)
    dx = x - mean_x[..., None]
    scale = (dx * (y - mean_y[..., None])).sum(-1) / np.square(dx).sum(-1)
    floor = mean_y - scale * mean_x
    through_zero = np.maximum((x * y).sum(-1) / np.square(x).sum(-1), 0.0)
    negative = floor < 0
    floor, scale = np.where(negative, 0.0, floor), np.where(negative, through_zero, scale)
    flat = scale < 0
    floor, scale = np.where(flat, mean_y, floor), np.where(flat, 0.0, scale)
    error = np.square(y - floor[..., None] - scale[..., None] * x).sum(-1)
    rows, best = np.arange(len(curves)), error.argmin(1)
    return np.stack([floor[rows, best], scale[rows, best], exponents[rows, best]], axis=1)
