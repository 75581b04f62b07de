"""Losses of LensNet: preferences over pairs of a row's layouts, and agreement with teachers.

Shapes: `B` rows, `V` variants of a row, `O` contexts of a row in which LensNet scored its blocks, `F` blocks. The detail of a block is
−level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.config import LensLossConfig


class Pairs(NamedTuple):
    """Ordered pairs (a, b) of a row's variants."""

    levels: Tensor  # int64 [B,V,F]
    gap: Tensor  # fp32 [B,V,V], A_b − A_a
    kept: Tensor  # bool [B,V,V]: b is better, and the gap is among the largest


def policy_scores(scores: Tensor, pairs: Pairs) -> Tensor:
    """P(a→b) = Σ_blocks s·(detail_b − detail_a) / Σ |detail_b − detail_a| of each pair; 0 if a and b agree.

    Scores fp32 [O,B,F] of O contexts of each row → fp32 [O,B,V,V], a along dimension 2. Both layouts are judged in the same
    context, so P(b→a) = −P(a→b). If P(a→b) were judged in a alone, LensNet could satisfy every pair without learning anything, by
    scoring each gist high and each raw block low.
    """
    detail = -pairs.levels.float()
    gain = torch.einsum("obf,bvf->obv", scores, detail)
    total = (detail[:, None] - detail[:, :, None]).abs().sum(-1)  # (B, V, V)
    return (gain[:, :, None] - gain[:, :, :, None]) / total.clamp(min=1)


def make_pairs(levels: Tensor, advantages: Tensor, config: LensLossConfig) -> Pairs:
    """Builds all pairs of each row's variants: levels int64 [B,V,F], advantages fp32 [B,V]."""
    gap = advantages[:, None] - advantages[:, :, None]
    different = (levels[:, None] != levels[:, :, None]).any(-1)
    better = (gap > 0) & different
    # Small gaps are noise: the threshold is a quantile over the whole batch, so rows with small gaps only keep no pair.
    ordered = torch.where(better, gap, 0.0).flatten().sort(descending=True).values
    keep = (better.sum() * config.mc_lens_hard_negative_ratio).ceil().long()
    threshold = ordered[(keep - 1).clamp(min=0)]
    kept = better & (gap >= threshold)
    flat = torch.where(kept, gap, 0.0).flatten(1)
    if flat.shape[1] > config.mc_max_lens_pairs:
        rank = flat.argsort(1, descending=True).argsort(1).view_as(gap)
        kept = kept & (rank < config.mc_max_lens_pairs)
    return Pairs(levels, gap, kept)


class AdvantageNorm(nn.Module):
    """Running mean and standard deviation of advantages over micro-batches and processes.

    While `alone`, there is no communication with other processes.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta, self.alone = beta, False
        self.register_buffer("moments", torch.zeros(3))  # sums of 1, A and A² under exponential decay

    @torch.no_grad()
    def update(self, advantages: Tensor) -> None:
        """Adds the advantages of a micro-batch, fp32 of any shape."""
        # Sums over processes: the quotients below cancel their number.
        moments = torch.stack([advantages.new_ones(()), advantages.mean(), advantages.square().mean()])
        if dist.is_initialized() and not self.alone:
            dist.all_reduce(moments)
        self.moments.lerp_(moments, 1 - self.beta)

    @property
    def mean(self) -> Tensor:
        """Running mean, fp32 scalar."""
        return self.moments[1] / self.moments[0]

    @property
    def deviation(self) -> Tensor:
        """Running standard deviation, fp32 scalar."""
        return (self.moments[2] / self.moments[0] - self.mean.square()).clamp(min=1e-12).sqrt()


def preference_loss(pairs: Pairs, policy: Tensor, deviation: Tensor, config: LensLossConfig) -> Tensor:
    """Bradley–Terry loss of the kept pairs, fp32 scalar, from policy scores [O,B,V,V].

    The mean is weighted by the gap in running standard deviations.
    """
    weight = torch.where(pairs.kept, torch.tanh(pairs.gap / deviation), 0.0)
    weight = weight / (len(policy) * weight.sum().clamp(min=1e-6))
    return (weight * F.softplus(-policy / config.mc_lens_temperature)).sum()


def teacher_loss(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher ‖ scores) of distributions over blocks: `teacher` fp32 [B,F] ≥ 0, scores [O,B,F] at `temperature`.

    Rows are weighted by the sum of their teacher signal; rows without any are ignored.
    """
    predicted = (scores / temperature).log_softmax(-1).mean(0)
    wanted = torch.special.xlogy(teacher, teacher / teacher.sum(-1, keepdim=True).clamp(min=1e-6))
    return (wanted - teacher * predicted).sum() / teacher.sum().clamp(min=1e-6)
