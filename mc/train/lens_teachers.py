"""Which blocks hold what is to come: the teacher that needs no model.

What far context gives a small model on text is copying in order, of names above all: the blocks worth their detail are those with
pairs of tokens that the horizon has too. Shapes: `B` rows, `T` tokens, `O` decision points, `H` horizon, `F` blocks of K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.model.cross_entropy import IGNORE


def occurrence(tokens: Tensor, targets: Tensor, decisions: Sequence[int], blocks: Sequence[int], horizon: int, block_size: int) -> Tensor:
    """How much of the horizon behind each decision point each block holds, fp32 [O,B,F] with F the most of `blocks`.

    Tokens and targets are int64 [B,T]; before `decisions[o]` there are `blocks[o]` blocks that count. Each of the H targets, with the
    token before it, has log(blocks / n) to give, rarity in the row, to the n blocks that hold the pair, evenly: nothing where all
    do or none does. A target that is not learned from gives nothing.
    """
    F = max(blocks)
    begins = torch.stack([torch.arange(t - 1, t - 1 + horizon, device=tokens.device) for t in decisions])  # (O, H)
    coming = _pairs(tokens, targets)[:, begins]  # (B, O, H)
    far = torch.cat([torch.full_like(tokens[:, :1], -1), _pairs(tokens[:, :-1], tokens[:, 1:])], dim=1)[:, : F * block_size]
    counts = torch.stack([torch.full((1, 1), count, device=tokens.device) for count in blocks])  # (O, 1, 1), made there
    there = torch.arange(F, device=tokens.device) < counts  # (O, 1, F)
    holds = (coming[..., None] == far[:, None, None]).unflatten(-1, (F, block_size)).any(-1) & there  # (B, O, H, F)
    n = holds.sum(-1, keepdim=True).clamp(min=1)
    told = holds * ((counts / n).log() / n) * (targets[:, begins] != IGNORE)[..., None]
    return told.sum(2).transpose(0, 1)


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """One number for two tokens, each below 2³¹."""
    return (first << 31) + second
