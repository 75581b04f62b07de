"""Hits: the squared attention that queries pay to single entries, by layer and head; what LensNet sees, and what teaches it.

A head that copies gives one token most of a query's attention, so the square tells more than the attention itself. Shapes: `L` layers,
`N` rows, `H` query heads, `G` key heads, `E` head size, `Q` queries, `M` keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mc.nets.layered_gists import LayeredEntries
from nanochat.model.attention import visible


@torch.no_grad()
def token_hits(queries: Tensor, keys: Tensor, first: int) -> Tensor:
    """Hits fp32 [N,L,H,Q,M] of `queries` [L,N,Q,H,E] at the positions from `first` on, on the tokens with `keys` [L,N,M,G,E].

    The keys are those of all tokens from position 0 on; a query attends to those up to its own.
    """
    place = torch.arange(keys.shape[2], device=keys.device)
    return _hits(_scores(queries, keys), visible(place[first : first + queries.shape[2], None], place, 0))


@torch.no_grad()
def entry_hits(queries: Tensor, entries: LayeredEntries, seen: Tensor) -> Tensor:
    """Hits fp32 [N,L,H,Q,M] of `queries` on those of the `entries` [L,N,M,·] that each of them sees: `seen`, bool [N,Q,M]."""
    repeat = queries.shape[3] // entries.keys.shape[3]
    bias = entries.bias.permute(1, 0, 3, 2).repeat_interleave(repeat, dim=2)  # (N, L, H, M)
    return _hits(_scores(queries, entries.keys).add_(bias.unsqueeze(3)), seen[:, None, None])


def _hits(scores: Tensor, seen: Tensor) -> Tensor:
    scores.masked_fill_(~seen, -torch.inf)
    return scores.sub_(scores.logsumexp(-1, keepdim=True)).mul_(2).exp_()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention scores fp32 [N,L,H,Q,M] of queries [L,N,Q,H,E] and keys [L,N,M,G,E]."""
    H, E, G = queries.shape[3], queries.shape[4], keys.shape[3]
    grouped = queries.unflatten(3, (G, H // G)).permute(1, 0, 3, 4, 2, 5).flatten(3, 4)  # (N, L, G, H/G·Q, E)
    scores = grouped @ keys.permute(1, 0, 3, 4, 2)
    return (scores.float() * E**-0.5).unflatten(3, (H // G, -1)).flatten(2, 3)
