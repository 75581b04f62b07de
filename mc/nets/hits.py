"""Hits: the most attention that a query pays to a token of each block, by layer and head; what LensNet sees, and what teaches it.

A block that a head copies from gets most of a query's attention at one token, so the largest probability tells more than the sum.
Shapes: `L` layers, `N` rows, `H` query heads, `G` key heads, `E` head size, `Q` queries, `M` keys, `F` blocks of K tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mc.nets.layered_gists import LayeredEntries
from nanochat.model.attention import visible


@torch.no_grad()
def block_hits(queries: Tensor, keys: Tensor, first: int, blocks: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Hits fp32 [N,L,H,Q,F] of `queries` [L,N,Q,H,E] at the positions from `first` on, on the first `blocks` blocks.

    `keys` [L,N,M,G,E] are those of all tokens from position 0 on; a query attends to those up to its own. Also returns the logarithms
    of the queries' softmax denominators, fp32 [N,L,H,Q].
    """
    scores = _scores(queries, keys)  # (N, L, H, Q, M)
    place = torch.arange(keys.shape[2], device=keys.device)
    scores = scores.masked_fill(~visible(place[first : first + queries.shape[2], None], place, 0), -math.inf)
    mass = scores.logsumexp(-1)
    best = scores[..., : blocks * block_size].unflatten(-1, (blocks, block_size)).amax(-1)
    return (best - mass.unsqueeze(-1)).exp(), mass


@torch.no_grad()
def entry_hits(queries: Tensor, entries: LayeredEntries, mass: Tensor) -> Tensor:
    """Attention fp32 [N,L,H,Q,M] of `queries` to entries [L,N,M,·] of a softmax with the logarithms `mass` of its denominators."""
    repeat = queries.shape[3] // entries.keys.shape[3]
    bias = entries.bias.permute(1, 0, 3, 2).repeat_interleave(repeat, dim=2)  # (N, L, H, M)
    return (_scores(queries, entries.keys) + bias.unsqueeze(3) - mass.unsqueeze(-1)).exp()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Scores fp32 [N,L,H,Q,M] of queries [L,N,Q,H,E] and keys [L,N,M,G,E]."""
    H, E, G = queries.shape[3], queries.shape[4], keys.shape[3]
    grouped = queries.unflatten(3, (G, H // G)).permute(1, 0, 3, 4, 2, 5).flatten(3, 4)  # (N, L, G, H/G·Q, E)
    scores = grouped @ keys.permute(1, 0, 3, 4, 2)
    return scores.float().mul_(E**-0.5).unflatten(3, (H // G, -1)).flatten(2, 3)
