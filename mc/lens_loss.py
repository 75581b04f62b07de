"""How LensNet learns: from pairs of layouts of one row, of which one served the tokens to come better.

Shapes: `B` rows, `V` layouts of a row, `F` blocks. Detail of a block is −level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.flags import flag


@dataclass
class LensLossConfig:
    """Weights of LensNet's losses."""

    mc_lens_loss_weight: float = flag(0.1, "weight of LensNet's loss; 0 = LensNet is not trained")
    mc_lens_temperature: float = flag(0.1, "temperature of the preference loss, in policy scores")
    mc_lens_adv_norm_beta: float = flag(0.99, "decay of the running mean and deviation that normalise advantages")
    mc_lens_kl_weight: float = flag(0.0, "weight of the divergence from a running mean of the policy's weights")
    mc_lens_rank_weight: float = flag(0.0, "weight of the margin loss on pairs")
    mc_lens_margin: float = flag(0.1, "margin of that loss, in policy scores")
    mc_lens_budget_weight: float = flag(0.0, "weight of the balance between scores that expand and that collapse")
    mc_lens_budget_smooth_weight: float = flag(0.0, "weight of the balance of their running means")
    mc_lens_budget_smooth_beta: float = flag(0.9, "decay of these running means")
    mc_lens_hard_negative_ratio: float = flag(0.5, "share of the pairs that is kept, those with the largest gaps")
    mc_max_lens_pairs: int = flag(16, "pairs of a row at most", unit="pairs")

    def __post_init__(self) -> None:
        for name in ("loss", "kl", "rank", "budget", "budget_smooth"):
            if not 0 <= getattr(self, f"mc_lens_{name}_weight") < float("inf"):
                raise ValueError(f"mc_lens_{name}_weight is {getattr(self, f'mc_lens_{name}_weight')}; it must be a number from 0")
        for name in ("mc_lens_temperature", "mc_lens_margin"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("mc_lens_adv_norm_beta", "mc_lens_budget_smooth_beta"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0 … 1, without 1")
        if not 0 < self.mc_lens_hard_negative_ratio <= 1:
            raise ValueError(f"mc_lens_hard_negative_ratio is {self.mc_lens_hard_negative_ratio}; it must lie in 0 … 1, without 0")
        if self.mc_max_lens_pairs < 1:
            raise ValueError(f"mc_max_lens_pairs is {self.mc_max_lens_pairs}; it must be at least 1")


class Pairs(NamedTuple):
    """Ordered pairs (a, b) of a row's layouts."""

    policy: Tensor  # fp32 [B,V,V], P(a→b), differentiable
    gap: Tensor  # fp32 [B,V,V], A_b − A_a
    kept: Tensor  # bool [B,V,V]: b is better, and the gap is among the largest


def policy_scores(scores: Tensor, levels: Tensor) -> Tensor:
    """P(a→b) = Σ_blocks s_a·(detail_b − detail_a) / Σ |detail_b − detail_a|, 0 where a and b agree.

    scores fp32 [B,V,F], levels int64 [B,V,F] → fp32 [B,V,V] with a along dimension 1.
    """
    detail = -levels.float()
    difference = detail[:, None] - detail[:, :, None]  # (B, a, b, F)
    total = difference.abs().sum(-1)
    return (scores[:, :, None] * difference).sum(-1) / total.clamp(min=1)


def make_pairs(scores: Tensor, levels: Tensor, advantages: Tensor, config: LensLossConfig) -> Pairs:
    """All pairs of each row; advantages fp32 [B,V]."""
    policy = policy_scores(scores, levels)
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
    return Pairs(policy, gap, kept)


def preference_loss(pairs: Pairs, scale: Tensor, config: LensLossConfig) -> tuple[Tensor, Tensor]:
    """(Bradley–Terry loss, margin loss), fp32 scalars, means over the kept pairs weighted by their gap.

    `scale` is the running deviation of advantages, which gaps are measured in.
    """
    weight = torch.where(pairs.kept, torch.tanh(pairs.gap / scale.clamp(min=1e-6)), 0.0)
    total = weight.sum().clamp(min=1e-6)
    bradley_terry = F.softplus(-pairs.policy / config.mc_lens_temperature)
    margin = F.relu(config.mc_lens_margin - pairs.policy)
    return (weight * bradley_terry).sum() / total, (weight * margin).sum() / total
