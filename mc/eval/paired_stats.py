"""Paired comparison of conditions over the same rows: means, standard errors of differences, recovery.

Shapes: `N` rows, `C` conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Estimate(NamedTuple):
    """Value and its standard error; NaN if undefined."""

    value: float
    error: float

    def columns(self, name: str) -> dict[str, float | None]:
        """Columns `name` and `name_error` of a table; None if not finite."""
        return {key: value if math.isfinite(value) else None for key, value in ((name, self.value), (f"{name}_error", self.error))}

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class PairedComparison:
    """Mean loss of each condition over `rows` rows, and the covariance [C,C] of these means, fp64 on the CPU.

    Rows are paired, so that their difficulty drops out of every difference.
    """

    conditions: tuple[str, ...]
    rows: int
    means: Tensor
    covariance: Tensor

    def mean(self, condition: str) -> Estimate:
        """Mean loss in nats."""
        return self._contrast((condition, 1.0))

    def difference(self, condition: str, reference: str) -> Estimate:
        """Mean of loss(condition) − loss(reference) in nats."""
        return self._contrast((condition, 1.0), (reference, -1.0))

    def delta_nll(self, condition: str) -> Estimate:
        """Mean loss of `condition` above that of the full context, in nats."""
        return self.difference(condition, "full")

    def recovery(self, condition: str) -> Estimate:
        """(window − condition) / (window − full): share of the gain from far context that `condition` keeps.

        The error is that of a ratio of means, by the delta method. NaN if window and full are equal; meaningless if their difference
        is within its own error of 0.
        """
        gain = self.difference("window", "full").value
        if gain == 0:
            return Estimate(float("nan"), float("nan"))
        share = self.difference("window", condition).value / gain
        return Estimate(share, self._contrast(("window", 1 - share), (condition, -1.0), ("full", share)).error / abs(gain))

    def _contrast(self, *terms: tuple[str, float]) -> Estimate:
        """Sum of conditions' means times weights; a condition may occur more than once."""
        total = torch.zeros_like(self.means)
        for condition, weight in terms:
            total[self.conditions.index(condition)] += weight
        return Estimate(float(total @ self.means), float((total @ self.covariance @ total).clamp(min=0).sqrt()))


def compare_rows(losses: Mapping[str, Tensor], groups: Tensor | None = None) -> PairedComparison:
    """Compares `losses`, [N] of each condition, over the rows of all processes.

    Rows with the same number in `groups`, int64 [N], such as those of one document, are not taken to be independent; None = every
    row is its own group. No group may be spread over processes. Raises `ValueError` if there is no row.
    """
    conditions = tuple(losses)
    values = torch.stack([losses[name] for name in conditions], dim=1)  # (N, C)
    values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    N, C = values.shape
    first = _summed(torch.cat([values.sum(0), values.new_tensor([N])]))
    rows = int(first[-1])
    if not rows:
        raise ValueError("no row has a target in the horizon: nothing to compare")
    means = first[:-1] / rows
    residuals = values - means
    if groups is not None:
        _, member = groups.to(values.device).unique(return_inverse=True)
        count = int(member.max()) + 1 if N else 0
        residuals = values.new_zeros(count, C).index_add_(0, member, residuals)
    second = _summed(torch.cat([(residuals.t() @ residuals).flatten(), values.new_tensor([len(residuals)])]))
    count = int(second[-1])
    correction = count / (count - 1) if count > 1 else float("nan")
    covariance = second[:-1].view(C, C) / rows**2 * correction
    return PairedComparison(conditions, rows, means.double().cpu(), covariance.double().cpu())


def _summed(tensor: Tensor) -> Tensor:
    """Sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
