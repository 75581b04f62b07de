"""Training metrics of the memory, as pure functions of losses, layouts and scores. Definitions: the vault's page on metrics.

Shapes: `B` rows, `V` variants, `W` entries, `F` blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def by_level(losses: Tensor, reference: Tensor, lod: Tensor, counts: Tensor, max_lod: int) -> tuple[Tensor, Tensor]:
    """(mean loss of the predictions at entries of each level, mean of loss − reference), fp32 [max_lod + 1]; NaN for absent levels.

    `reference` is the plain row's loss of the same target; `counts` (bool) marks predictions with a target. All [N,W].
    """
    member = (torch.nn.functional.one_hot(lod, max_lod + 1) * counts[..., None]).to(losses.dtype).flatten(0, 1)  # (N·W, levels)
    count = member.sum(0)
    return losses.flatten() @ member / count, (losses - reference).flatten() @ member / count


def correlation(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation over the last dimension, of elements in `mask`; NaN if one of them is constant."""
    mask = torch.ones_like(a, dtype=torch.bool) if mask is None else mask
    a, b = _deviations(a, mask), _deviations(b, mask)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def _deviations(values: Tensor, mask: Tensor) -> Tensor:
    """`values` minus their mean over the elements in `mask` of the last dimension; 0 elsewhere."""
    # Minus the minimum first: equal values then deviate by exactly 0 instead of the rounding of their mean.
    lowest = torch.where(mask, values, math.inf).amin(-1, keepdim=True)
    values = torch.where(mask, values - lowest, 0.0)
    return torch.where(mask, values - values.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True), 0.0)


def preference_correlation(policy: Tensor, advantages: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, max over rows) of the correlation of P(a→b) and NLL_b − NLL_a over a row's pairs; −1 is perfect.

    Rows in which one of them is constant do not count; NaN if no row counts.
    policy [B,V,V], advantages [B,V] (higher = better), levels [B,V,F].
    """
    worse = advantages[:, :, None] - advantages[:, None]
    pairs = (levels[:, None] != levels[:, :, None]).any(-1)
    rho = correlation(policy.flatten(1), worse.flatten(1), pairs.flatten(1))
    finite = rho.isfinite()
    mean = torch.where(finite, rho, 0.0).sum() / finite.sum()
    return mean, torch.where(finite.any(), torch.where(finite, rho, -1.0).max(), math.nan)


def span_correlation(scores: Tensor, levels: Tensor, advantages: Tensor) -> Tensor:
    """Correlation over a row's blocks of a block's score with the effect of its detail, averaged over rows.

    The effect is the covariance over the row's variants of the block's detail and their advantage.
    scores [B,F], levels [B,V,F], advantages [B,V].
    """
    detail = -levels.float()
    effect = ((detail - detail.mean(1, keepdim=True)) * (advantages - advantages.mean(1, keepdim=True))[..., None]).mean(1)
    rho = correlation(scores, effect)
    finite = rho.isfinite()
    return torch.where(finite, rho, 0.0).sum() / finite.sum()
