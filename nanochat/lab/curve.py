"""What a run's metrics say: its curve towards the target, its pace, its losses, whether it was stable."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]

FINAL_SHARE = 0.05  # of the run's tokens, over which the final training loss is a mean
SPIKE = 0.10  # a rise of the training loss above its least value so far by this share is an instability


@dataclass(frozen=True)
class Curve:
    """The target metric against tokens, both fp64 [points], tokens ascending."""

    tokens: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Figures:
    """The figures of a finished run. Times are in seconds of training steps, without evaluation and saving."""

    tokens: int
    flops: float
    wall_seconds: float  # as it was, with compiling and whatever else the machine did
    tok_per_sec: float  # median
    step_ms: float  # median
    compile_seconds: float  # what the first steps took beyond the median
    final_loss: float  # mean of train/loss over the last 5 % of the tokens
    min_bpb: float | None
    peak_mem_mib: float
    spike: float  # largest rise of train/loss above its least value so far, as a share

    @property
    def steady_seconds(self) -> float:
        """Seconds of the run at its median pace: what a hiccup of the machine, or compiling, does not change."""
        return self.tokens / self.tok_per_sec


def read_curve(records: Records, metric: str) -> Curve:
    """The points of `metric`; values that are not finite are left out."""
    points = [(r["total_tokens"], r[metric]) for r in records if r.get(metric) is not None]
    tokens, values = zip(*points, strict=True) if points else ((), ())
    return Curve(np.array(tokens, dtype=np.float64), np.array(values, dtype=np.float64))


def read_figures(records: Records) -> Figures | None:
    """The figures; None where the run has not logged two intervals with a finite loss."""
    steps = [r for r in records if r.get("train/dt") is not None]
    losses = [(r["total_tokens"], r["train/loss"]) for r in steps if r.get("train/loss") is not None]
    if len(steps) < 2 or not losses:
        return None
    settled = steps[1:]  # the first interval has the compiling
    dt = statistics.median(r["train/dt"] for r in settled)
    first = steps[0]
    end = max(r["total_tokens"] for r in records)
    last = [loss for tokens, loss in losses if tokens > (1 - FINAL_SHARE) * end] or [losses[-1][1]]
    least, spike = losses[0][1], 0.0
    for _, loss in losses:
        least = min(least, loss)
        spike = max(spike, loss / least - 1)
    bpb = [r["val/bpb"] for r in records if r.get("val/bpb") is not None]
    return Figures(
        tokens=end,
        flops=max(r["total_training_flops"] for r in records),
        wall_seconds=max(r["total_training_time"] for r in records),
        tok_per_sec=statistics.median(r["train/tok_per_sec"] for r in settled),
        step_ms=1e3 * dt,
        compile_seconds=max(0.0, (first["train/dt"] - dt) * first["step"]),
        final_loss=statistics.fmean(last),
        min_bpb=min(bpb) if bpb else None,
        peak_mem_mib=max(r["train/peak_mem_mib"] for r in steps),
        spike=spike,
    )
