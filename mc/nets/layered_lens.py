"""LensNet of a layered memory: scores of blocks by where the newest queries look, and where that leads.

A query looks at the tokens that it attends to (`mc.nets.hits`); to a gist as if to all of its tokens alike; and, as a head that copies
would if they were raw, at those behind an earlier occurrence of what was just read (`mc.nets.matches`). Such a head looks at the token
that it is about to copy. What the next tokens need is therefore not that token but those after it: a query that was read `a` tokens ago
and looked at token `c` by now points at token `c + a`, and the next n tokens will point at the n tokens from there on. What was named
may also be asked for later: to a smaller part, a look goes on pointing where it did. The score of a block is the logarithm of what points
into it, summed over all looks; that is the choice of an untrained LensNet. It learns how much each layer and head counts, each length of
a match, each age of a query that has moved on or has not, and each distance ahead.

Shapes: `N` Working Contexts, `L` layers, `H` query heads, `Q` newest queries, `M` tokens, `F` blocks, `K` block size, `D` blocks that
looks at one block may lead to, itself included.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.nets.matches import LONGEST

NEWEST = 32  # queries that LensNet looks at, and the most tokens that it looks ahead
DECAY = 0.9  # initial weight of a query by that of the one after it
STAYING = 0.1  # initial weight of a look where it pointed
COPYING = 1 / 16  # share of the heads that a match counts as, initially
LEAST = 1e-3  # looks that weigh less are none
FAINT = 0.01  # initial weight of what is added to each block: any may be attended to


class LayeredLensNet(nn.Module):
    """Scores fp32 [N,F] of blocks in token order, high = wants detail, from the looks of the last Q ≤ `NEWEST` tokens.

    The choice is for the next `interval` tokens, at most `NEWEST`.
    """

    def __init__(self, layers: int, heads: int) -> None:
        super().__init__()
        # Logarithms of weights.
        self.heads = nn.Parameter(torch.empty(layers * heads))
        self.moved = nn.Parameter(torch.empty(NEWEST))  # of looks by age, the newest first, where they point by now
        self.stayed = nn.Parameter(torch.empty(NEWEST))  # and where they pointed
        self.ahead = nn.Parameter(torch.empty(NEWEST))
        self.lengths = nn.Parameter(torch.empty(LONGEST))  # of the matches of one query, relative to each other
        self.copying = nn.Parameter(torch.empty(()))
        self.faint = nn.Parameter(torch.empty(()))  # changes no choice, but what scores say about how much is attended to

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> LayeredLensNet:
        """Initialises the weights to those of the untrained choice. Returns self."""
        nn.init.zeros_(self.heads)
        self.moved.copy_(torch.arange(NEWEST) * torch.tensor(DECAY).log())
        nn.init.constant_(self.stayed, math.log(STAYING))
        nn.init.zeros_(self.ahead)
        self.lengths.copy_(torch.arange(LONGEST))
        nn.init.constant_(self.copying, math.log(COPYING * len(self.heads)))
        nn.init.constant_(self.faint, math.log(FAINT))
        return self

    def forward(self, looks: Tensor, interval: int) -> Tensor:
        """See the class; `looks` are [N,Q,F,K]."""
        return (self.reached(looks, interval) + self.faint.exp()).log()

    def looks_by_hits(self, hits: Tensor) -> Tensor:
        """Looks [N,Q,M] from hits [N,L,H,Q,M]."""
        return _kept(torch.einsum("nhqm,h->nqm", hits.flatten(1, 2), self.heads.exp()))

    def looks_by_matches(self, lengths: Tensor) -> Tensor:
        """Looks [N,Q,M] from the lengths, int64 [N,Q,M], of matches; 0 = none. As hits are, they are squares of shares."""
        weights = F.pad(self.lengths.exp(), (1, 0))[lengths]
        return _kept(self.copying.exp() * (weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)).square())

    def leads_to(self, block_size: int, interval: int) -> Tensor:
        """Weights [NEWEST,K,D] of a look, by age of the query and token looked at, in the score of that block and of the following ones."""
        ahead = self.ahead[: min(interval, NEWEST)].exp() / min(interval, NEWEST)
        offset = torch.arange(block_size + NEWEST - 1, device=ahead.device)
        blocks = (offset[:, None] + torch.arange(len(ahead), device=ahead.device)) // block_size
        D = (block_size + NEWEST + len(ahead) - 3) // block_size + 1
        share = ahead.new_zeros(len(blocks), D).scatter_add(1, blocks, ahead.expand_as(blocks))  # of a pointer at this offset
        moved = share.unfold(0, block_size, 1).mT * self.moved.exp()[:, None, None]
        return moved + share[:block_size] * self.stayed.exp()[:, None, None]

    def reached(self, looks: Tensor, interval: int) -> Tensor:
        """Sum of what leads into each block, by now and while the next tokens are read: [N,F] from looks [N,Q,F,K], oldest query first."""
        Q, blocks, K = looks.shape[1:]
        into = torch.einsum("nqfk,qkd->dnf", looks, self.leads_to(K, interval)[:Q].flip(0))
        return torch.stack([F.pad(part, (d, 0))[:, :blocks] for d, part in enumerate(into)]).sum(0)


def spread(looks: Tensor, stride: int) -> Tensor:
    """Looks [N,Q,M·stride] at the tokens of gists from those [N,Q,M] at the gists, whose attention is divided evenly."""
    return looks.repeat_interleave(stride, dim=-1) / stride**2


def _kept(looks: Tensor) -> Tensor:
    return looks * (looks >= LEAST)
