"""LensNet of a layered memory: scores of nodes by where the newest queries look, and where that leads.

A head that copies looks at the token it is about to copy. What the next tokens need is therefore not that token but those after it:
a query that was read `a` tokens ago and looked at token `c` by now points at token `c + a`, and the next n tokens will point at the n
tokens from there on. The score of a block is the logarithm of what points into it, summed over layers, heads and queries; that is the
choice of an untrained LensNet. It learns how much each layer and head counts, each age of a query and each distance ahead, and a
correction from the scores around a block, which starts at zero. Nodes above level 1 have gists below them, not tokens, and count by
what looks at these.

Shapes: `N` Working Contexts, `L` layers, `H` query heads, `Q` newest queries, `F` nodes, `C` children of a node.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.nets.encoder import init_linear
from mc.nets.lensnet import LensConfig
from nanochat.model.block import Linear, relu_squared

NEWEST = 32  # queries that LensNet looks at, and the most tokens that it looks ahead
DECAY = 0.9  # initial weight of a query by that of the one after it
FAINT = 1e-8  # hits below this are as good as none
HIDDEN = 32
SCALE = 8.0  # logarithms of hits are divided by it
FEATURES = 7


class LayeredLensNet(nn.Module):
    """Scores fp32 [N,F] of nodes in token order; high = wants detail.

    `hits` fp32 [N,L,H,Q,F,C] are those of the last Q ≤ `NEWEST` tokens, oldest first, on the children of each node. `level` int64 and
    `distance` (in tokens) are [N,F]. The choice is for the next `interval` tokens, at most `NEWEST`.
    """

    def __init__(self, config: LensConfig, layers: int, heads: int) -> None:
        super().__init__()
        self.config = config
        # Logarithms of weights.
        self.heads = nn.Parameter(torch.empty(layers * heads))
        self.ages = nn.Parameter(torch.empty(NEWEST))  # the newest first
        self.ahead = nn.Parameter(torch.empty(NEWEST))
        mlp = config.lensnet_head == "mlp"
        self.c_in = Linear(FEATURES, HIDDEN) if mlp else None
        self.c_score = Linear(HIDDEN if mlp else FEATURES, 1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> LayeredLensNet:
        """Initialises the weights to those of the untrained choice. Returns self."""
        nn.init.zeros_(self.heads)
        self.ages.copy_(torch.arange(NEWEST) * torch.tensor(DECAY).log())
        nn.init.zeros_(self.ahead)
        if self.c_in is not None:
            init_linear(self.c_in.weight, generator)
        nn.init.zeros_(self.c_score.weight)
        return self

    def forward(self, hits: Tensor, level: Tensor, distance: Tensor, interval: int) -> Tensor:
        """See the class."""
        return self.of_counts(self.counts(hits), level, distance, interval)

    def counts(self, hits: Tensor) -> Tensor:
        """Hits [N,L,H,Q,F,C] summed over layers and heads, by their weights: [N,Q,F,C]."""
        return torch.einsum("nhqm,h->nqm", hits.flatten(1, 2).flatten(3), self.heads.exp()).unflatten(-1, hits.shape[4:])

    def of_counts(self, counts: Tensor, level: Tensor, distance: Tensor, interval: int) -> Tensor:
        """Scores [N,F] from `counts`, which a session keeps of queries that it has seen; the rest is as in `forward`."""
        Q, nodes, C = counts.shape[1:]
        ages = self.ages[:Q].flip(0).exp()[None, None]
        flat = counts.flatten(2)  # (N, Q, F·C)
        here = _weighted(ages, flat).unflatten(-1, (nodes, C)).sum(-1)
        points = _weighted(ages, _advanced(flat))
        kernel = self.ahead[: min(interval, NEWEST)].exp().flip(0)
        # What points at a token by now will point at those after it; summed over a block, each token counts by how many of these are in it.
        kernel = F.pad(kernel, (C - 1, C - 1)).unfold(0, C, 1).sum(-1) / len(kernel)
        reached = F.pad(points, (len(kernel) - C + 1, -1)).unfold(1, len(kernel), C) @ kernel
        base = torch.where(level > 1, here, reached)
        return (base + FAINT).log() + self._correction(base, here, level, distance)

    def _correction(self, base: Tensor, here: Tensor, level: Tensor, distance: Tensor) -> Tensor:
        """Learned part of the scores [N,F]."""
        seen, looked = ((part + FAINT).log() / SCALE for part in (base, here))
        around = F.pad(seen, (1, 1), value=-1.0)
        far = distance.clamp(min=1).float().log2() / SCALE
        x = torch.stack([seen, looked, around[:, :-2], around[:, 2:], level.float(), far, torch.ones_like(far)], dim=-1)
        if self.c_in is not None:
            x = relu_squared(self.c_in(x))
        return self.c_score(x).squeeze(-1)


def _weighted(weights: Tensor, parts: Tensor) -> Tensor:
    """Sum [N,M] of parts [N,Q,M] by weights [1,1,Q]."""
    return torch.bmm(weights.expand(len(parts), -1, -1), parts)[:, 0]


def _advanced(counts: Tensor) -> Tensor:
    """Where queries point by now, [N,Q,M] from what they looked at, oldest first: the one of age a has moved on by a tokens."""
    N, Q, M = counts.shape
    padded = F.pad(counts, (Q - 1, 0))
    # Each row begins one place further than the one before: the newest one at its own beginning.
    return padded.as_strided((N, Q, M), (Q * (M + Q - 1), M + Q, 1), padded.storage_offset())
