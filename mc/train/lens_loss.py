"""How LensNet learns: from pairs of layouts of one row, of which one served the tokens to come better.

Shapes: `B` rows, `V` variants of a row, `O` contexts of a row in which LensNet scored its blocks, `F` blocks. Detail of a block is
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
    """P(a→b) = Σ_blocks s·(detail_b − detail_a) / Σ |detail_b − detail_a| of each pair, 0 where a and b agree.

    Scores fp32 [O,B,F] are of O contexts of each row → fp32 [O,B,V,V], a along dimension 2. As both layouts are judged in the
    same context, P(b→a) = −P(a→b). Were P(a→b) judged in a alone, LensNet could satisfy every pair without knowing anything:
    score each gist high and each raw block low, and every move from anywhere to anywhere else is welcome.
    """
    detail = -pairs.levels.float()
    gain = torch.einsum("obf,bvf->obv", scores, detail)
    total = (detail[:, None] - detail[:, :, None]).abs().sum(-1)  # (B, V, V)
    return (gain[:, :, None] - gain[:, :, :, None]) / total.clamp(min=1)


def make_pairs(levels: Tensor, advantages: Tensor, config: LensLossConfig) -> Pairs:
    """All pairs of each row's variants: levels int64 [B,V,F], advantages fp32 [B,V]."""
    gap = advantages[:, None] - advantages[:, :, None]
    different = (levels[:, None] != levels[:, :, None]).any(-1)
    better = (gap > 0) & different
    # Small gaps are noise: the threshold is a quantile over the whole batch, so rows where nothing matters lose all theirs.
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
    """Running mean and deviation of advantages over micro-batches and processes: what gaps are measured in.

    While `alone`, other processes are not waited for.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta, self.alone = beta, False
        self.register_buffer("moments", torch.zeros(3))  # sums of 1, A and A² under exponential decay

    @torch.no_grad()
    def update(self, advantages: Tensor) -> None:
        """Takes in the advantages of a micro-batch, fp32 of any shape."""
        # The first is the number of processes, which the quotients cancel.
        moments = torch.stack([advantages.new_ones(()), advantages.mean(), advantages.square().mean()])
        if dist.is_initialized() and not self.alone:
            dist.all_reduce(moments)
        self.moments.lerp_(moments, 1 - self.beta)

    @property
    def mean(self) -> Tensor:
        """fp32 scalar."""
        return self.moments[1] / self.moments[0]

    @property
    def deviation(self) -> Tensor:
        """fp32 scalar."""
        return (self.moments[2] / self.moments[0] - self.mean.square()).clamp(min=1e-12).sqrt()


class LensLosses(NamedTuple):
    """fp32 scalars, differentiable: the terms of LensNet's loss without their weights."""

    preference: Tensor
    rank: Tensor
    budget: Tensor


def lens_losses(pairs: Pairs, policy: Tensor, scores: Tensor, deviation: Tensor, config: LensLossConfig) -> LensLosses:
    """The terms for the kept pairs, of policy scores [O,B,V,V] and block scores [O,B,F].

    The preference loss is Bradley and Terry's, the rank loss asks for a margin; both are means weighted by the gap in running
    deviations. The budget loss asks that what scores expand is as much as what they collapse.
    """
    weight = torch.where(pairs.kept, torch.tanh(pairs.gap / deviation), 0.0)
    weight = weight / (len(policy) * weight.sum().clamp(min=1e-6))
    preference = (weight * F.softplus(-policy / config.mc_lens_temperature)).sum()
    rank = (weight * F.relu(config.mc_lens_margin - policy)).sum()
    return LensLosses(preference, rank, imbalance(scores).mean())


def told_loss(scores: Tensor, told: Tensor, temperature: float) -> Tensor:
    """Mean KL(told ‖ scores): how much detail blocks deserve, `told` fp32 [B,F] from 0, and, at `temperature`, scores [O,B,F], as
    distributions over blocks.

    0 is perfect. Rows count by the sum of what is told of them: of a row with nothing there is nothing to learn.
    """
    predicted = (scores / temperature).log_softmax(-1).mean(0)
    wanted = torch.special.xlogy(told, told / told.sum(-1, keepdim=True).clamp(min=1e-6))
    return (wanted - told * predicted).sum() / told.sum().clamp(min=1e-6)


def excess(attention: Tensor) -> Tensor:
    """What of `attention` fp32 [·,F] is above an even share: averaged over heads nearly all of it is even, which says nothing."""
    return F.relu(attention - attention.mean(-1, keepdim=True))


def imbalance(scores: Tensor) -> Tensor:
    """((P⁺ − P⁻) / (P⁺ + P⁻))², P⁺ and P⁻ the sums of positive and of negative scores over the last dimension."""
    return (scores.sum(-1) / scores.abs().sum(-1).clamp(min=1e-6)).square()


def policy_divergence(reference: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Mean KL(reference ‖ scores) of the distributions over blocks that block scores [O,B,F] are at `temperature`."""
    old = (reference / temperature).log_softmax(-1)
    return (old.exp() * (old - (scores / temperature).log_softmax(-1))).sum(-1).mean()
