"""Suffix-match cache: a rival of a memory without a network, which copies what followed earlier occurrences of the newest tokens.

For each position the cache finds the earlier positions whose preceding tokens agree with the newest ones longest, and predicts the
tokens that followed them, each in proportion to its count. Its predictions are mixed with those of a model that reads a window, with
a weight for each length of the agreement, which is fitted on other rows. It reads nothing but tokens, of the whole history.

Source of the idea: cache language models (Kuhn and De Mori, 1990) with the longest match of PPM (Cleary and Witten, 1984).
Shapes: `N` rows, `T` tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LONGEST = 8  # agreements of this many tokens and more weigh alike
ROUNDS = 50  # of expectation maximisation; weights change by less than 1e-4 after half of them


class Copies(NamedTuple):
    """Prediction of the cache at each position: length of the agreement (int64, 0 = none, at most `LONGEST`) and the probability of
    the target (fp32), both [N,T]."""

    length: Tensor
    probability: Tensor


def copies(tokens: Tensor, targets: Tensor) -> Copies:
    """The cache's predictions of `targets` after `tokens`, int64 [N,T] each."""
    rows = [_copies_of_row(*row) for row in zip(tokens, targets, strict=True)]
    return Copies(torch.stack([row.length for row in rows]), torch.stack([row.probability for row in rows]))


def _copies_of_row(tokens: Tensor, targets: Tensor) -> Copies:
    T = len(tokens)
    agrees = (tokens[:, None] == tokens[None]).tril(-1)  # [now, earlier]
    length = agrees.to(torch.int64)
    longer = agrees
    for _ in range(LONGEST - 1):
        # One token more: the tokens before both agree as far as that.
        longer = agrees & torch.nn.functional.pad(longer, (1, 0, 1, 0))[:T, :T]
        length += longer
    best = length.amax(1)
    found = (length == best[:, None]) & agrees
    follows = torch.cat([tokens[1:], targets[-1:]])
    right = (found & (follows[None] == targets[:, None])).sum(1)
    return Copies(best, right / found.sum(1).clamp(min=1))


def fit_weights(nll: Tensor, cache: Copies) -> Tensor:
    """Weight of the cache by length of the agreement, fp32 [LONGEST+1], that suits the losses `nll` [N,T] of a model best."""
    model, index = nll.exp().reciprocal().flatten().double(), cache.length.flatten()
    copied = cache.probability.flatten().double()
    counts = torch.zeros(LONGEST + 1, dtype=torch.float64).index_add_(0, index, torch.ones_like(model)).clamp(min=1)
    weights = torch.full((LONGEST + 1,), 0.5, dtype=torch.float64)
    weights[0] = 0
    for _ in range(ROUNDS):
        mine = weights[index]
        share = mine * copied / (mine * copied + (1 - mine) * model)
        weights = torch.zeros_like(weights).index_add_(0, index, share) / counts
    return weights.float()


def mixed_nll(nll: Tensor, cache: Copies, weights: Tensor) -> Tensor:
    """Losses of the mixture of a model with losses `nll` and the cache, fp32 [N,T] in nats."""
    mine = weights[cache.length]
    return -(mine * cache.probability + (1 - mine) * (-nll).exp()).log()
