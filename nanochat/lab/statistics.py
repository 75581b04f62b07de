"""Paired comparisons over few seeds, for several candidates at once. Shapes: `C` candidates with the baseline, `n` seeds.

Model: value of candidate c at seed s = effect of c + effect of s + normal noise of one size. The residuals estimate the noise with
(C − 1)(n − 1) degrees of freedom; for one candidate this is the paired t-test. A noisier candidate gets its own, larger noise. The
level holds for the whole sweep: it is divided by the number of candidates (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.01  # probability that a sweep without any real effect finds a better candidate


@dataclass(frozen=True)
class Comparison:
    """A candidate minus the baseline, over seeds. `low` and `high` are one-sided bounds of `level` each."""

    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    level: float
    freedom: int

    @property
    def always_positive(self) -> bool:
        """True if the difference is positive at every seed."""
        return min(self.differences) > 0


def compare(values: Mapping[str, Sequence[float]], candidate: str, baseline: str, among: int = 1, level: float = LEVEL) -> Comparison:
    """Compares `candidate` with `baseline`; `values` maps these, and others of the sweep, to a value per seed.

    `among` is the number of candidates of the sweep. Raises `ValueError` for fewer than two seeds.
    """
    table = np.array([values[name] for name in values], dtype=np.float64)  # (C, n)
    C, n = table.shape
    if n < 2:
        raise ValueError("a comparison needs at least two seeds")
    residuals = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    freedom = (C - 1) * (n - 1)
    pooled = 2 * np.square(residuals).sum() / freedom  # variance of a difference
    differences = np.subtract(values[candidate], values[baseline])
    deviation = math.sqrt(max(pooled, differences.var(ddof=1)))
    half = t_quantile(1 - level / among, freedom) * deviation / math.sqrt(n)
    mean = float(differences.mean())
    return Comparison(tuple(map(float, differences)), mean, mean - half, mean + half, level / among, freedom)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with `freedom` degrees for `probability` in 0.5 … 1.

    By bisection of the exact distribution for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"invalid quantile {probability} with {freedom} degrees of freedom; expected 0.5 … 1 and at least one degree")
    low, high = 0.0, math.pi / 2  # of the angle atan(t / √freedom)
    for _ in range(80):
        angle = (low + high) / 2
        low, high = (angle, high) if 0.5 + 0.5 * _two_sided(angle, freedom) < probability else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _two_sided(angle: float, freedom: int) -> float:
    """Probability of |t| < √freedom · tan(angle)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine if freedom % 2 else 1.0), 0.0
    for k in range(freedom // 2):
        total += term
        term *= cosine * cosine * ((2 * k + 2) / (2 * k + 3) if freedom % 2 else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
