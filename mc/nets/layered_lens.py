"""LensNet of a layered memory: scores of nodes by the hits of the newest queries on what lies one level below.

A score starts as the logarithm of the squared hits (see `mc.nets.hits`), summed over layers, heads and the newest queries: the
untrained choice. The weight of each layer, head and age is learned, and a network on top of it, whose output starts at zero.

Shapes: `N` Working Contexts, `L` layers, `H` query heads, `Q` queries, `F` nodes.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.nets.encoder import init_linear
from mc.nets.lensnet import LensConfig
from nanochat.model.block import Linear, relu_squared

AGES = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32))  # of queries, the newest first: a range is one feature
NEWEST = 32  # queries that LensNet looks at
FAINT = 1e-5  # hits below this are as good as none
HIDDEN = 64
OTHERS = 3  # features besides hits: level, logarithm of the distance and its square


class LayeredLensNet(nn.Module):
    """Scores fp32 [N,F] from `hits` fp32 [N,L,H,Q,F] of the last Q ≤ `NEWEST` tokens, oldest first; high = wants detail.

    `level` and `distance` [N,F] are those of the nodes, the distance in tokens. `interval` is the number of tokens that the choice
    is for: the untrained score counts as many queries.
    """

    def __init__(self, config: LensConfig, layers: int, heads: int) -> None:
        super().__init__()
        self.config = config
        self.weights = nn.Parameter(torch.empty(len(AGES), layers * heads))  # logarithms
        inputs = layers * heads * len(AGES) + OTHERS
        self.c_in = Linear(inputs, HIDDEN) if config.lensnet_head == "mlp" else None
        self.c_hidden = Linear(HIDDEN, HIDDEN) if config.lensnet_head == "mlp" else None
        self.c_score = Linear(HIDDEN if config.lensnet_head == "mlp" else inputs, 1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> LayeredLensNet:
        """Initialises the weights to those of the untrained choice. Returns self."""
        nn.init.zeros_(self.weights)
        if self.c_in is not None:
            init_linear(self.c_in.weight, generator)
            init_linear(self.c_hidden.weight, generator)
        nn.init.zeros_(self.c_score.weight)
        return self

    def forward(self, hits: Tensor, level: Tensor, distance: Tensor, interval: int) -> Tensor:
        """See the class."""
        hits = hits.flatten(1, 2).flip(2)  # (N, L·H, Q, F), newest first
        ranges = [hits[:, :, begin:end] for begin, end in AGES if begin < hits.shape[2]]
        squares = torch.stack([part.square().sum(2) for part in ranges], dim=1)  # (N, ages, L·H, F)
        seen = torch.tensor([max(0.0, min(1.0, (interval - begin) / (end - begin))) for begin, end in AGES], device=hits.device)
        weights = (self.weights + (seen + FAINT).log()[:, None])[: len(ranges)].exp()
        base = torch.einsum("naif,ai->nf", squares, weights)
        best = torch.stack([part.amax(2) for part in ranges], dim=1)
        best = F.pad(best, (0, 0, 0, 0, 0, len(AGES) - len(ranges)))
        far = distance.clamp(min=1).float().log2() / 8
        others = torch.stack([level.float(), far, far.square()], dim=-1)  # (N, F, 3)
        x = torch.cat([((best + FAINT).log() / 4 + 1).flatten(1, 2).transpose(1, 2), others], dim=-1)
        if self.c_in is not None:
            x = relu_squared(self.c_in(x))
            x = x + relu_squared(self.c_hidden(x))
        return (base + FAINT**2).log() + self.c_score(x).squeeze(-1)
