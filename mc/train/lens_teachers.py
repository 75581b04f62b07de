"""Teachers for LensNet: which far blocks deserve detail, by the bigrams that they share with the horizon and by attention.

On text, a small model uses far context mostly to copy, names above all. Shapes: `B` rows, `T` tokens, `O` decision points,
`H` horizon, `F` blocks of K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.nets.attention_probe import attention_mass
from mc.row_plan import RowPlan
from nanochat.model.cross_entropy import IGNORE
from nanochat.model.gpt import GPT, Embedded
from nanochat.profiling.timers import OpenSpan


def occurrence(tokens: Tensor, targets: Tensor, decisions: Sequence[int], blocks: Sequence[int], horizon: int, block_size: int) -> Tensor:
    """Bigram-overlap teacher: IDF-weighted overlap of each block with the horizon after each decision point, fp32 [O,B,F].

    Tokens and targets are int64 [B,T]; `blocks[o]` blocks before `decisions[o]` count, F is the most of `blocks`. Each of the H
    targets, with the token before it, shares log(blocks / n), its rarity in the row, evenly among the n blocks that hold the pair:
    nothing if all do or none does. Ignored targets do not count.
    """
    most = max(blocks)
    begins = torch.stack([torch.arange(t - 1, t - 1 + horizon, device=tokens.device) for t in decisions])  # (O, H)
    coming = _pairs(tokens, targets)[:, begins]  # (B, O, H)
    far = torch.cat([torch.full_like(tokens[:, :1], -1), _pairs(tokens[:, :-1], tokens[:, 1:])], dim=1)[:, : most * block_size]
    counts = torch.stack([torch.full((1, 1), count, device=tokens.device) for count in blocks])  # (O, 1, 1), made on the device
    exists = torch.arange(most, device=tokens.device) < counts  # (O, 1, F)
    holds = (coming[..., None] == far[:, None, None]).unflatten(-1, (most, block_size)).any(-1) & exists  # (B, O, H, F)
    n = holds.sum(-1, keepdim=True).clamp(min=1)
    shares = holds * ((counts / n).log() / n) * (targets[:, begins] != IGNORE)[..., None]
    return shares.sum(2).transpose(0, 1)


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """Encodes pairs of tokens, each below 2³¹, as one int64."""
    return (first << 31) + second


def attention_teacher(
    model: GPT, embedded: Embedded, inputs: list[Tensor], row_losses: Tensor, losses: Tensor, plan: RowPlan, spans: OpenSpan
) -> Tensor:
    """Attention that the predictions after each decision point pay to each block of plain rows above an even share, fp32 [O,B,F].

    Predictions in the row's horizon are weighted by their mean loss in the variants, fp32 [V·B,W], above that in the plain rows,
    fp32 [B,T]: a block matters if its tokens are missed. After earlier decision points nothing was compressed, and all weigh alike.
    """
    H, blocks, K = plan.horizon, plan.blocks, plan.config.block_size
    horizon = slice(-H - 1, -1)
    lost = F.relu(losses.detach()[:, horizon].unflatten(0, (-1, len(row_losses))).mean(0) - row_losses[:, horizon])
    # Made on the device: a copy would synchronise.
    queries = torch.stack([torch.arange(t - 1, t - 1 + H, device=lost.device) for t in plan.decisions])
    weights = torch.cat([lost[None], torch.ones_like(lost).expand(len(queries) - 1, -1, -1)])
    with spans("attention"):
        mass = attention_mass(model, embedded, inputs, queries, weights)
    mass = mass[..., : blocks * K].unflatten(-1, (blocks, K)).sum(-1)
    return torch.stack([F.pad(excess(mass[i, :, :count]), (0, blocks - count)) for i, count in enumerate(plan.far_blocks)])


def excess(attention: Tensor) -> Tensor:
    """Part of `attention` fp32 [·,F] above an even share; averaged over heads, nearly all attention is even."""
    return F.relu(attention - attention.mean(-1, keepdim=True))
