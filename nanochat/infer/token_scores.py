"""Log-probabilities of tokens, those of the model itself: before temperature, penalties and constraints.

Shapes: `N` tokens, `V` vocabulary, `K` alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HEAD_POSITIONS = 256  # whose logits exist at the same time


class TokenScore(NamedTuple):
    """Log-probability of a token given those before it, None if there are none, and the likeliest tokens at its place with theirs."""

    token: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


@torch.no_grad()
def score_tokens(logits: Tensor, tokens: Tensor, alternatives: int) -> list[TokenScore]:
    """Scores of `tokens` int64 [N], given the fp32 `logits` [N,V] at their places, with the `alternatives` likeliest tokens of each."""
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(min(alternatives, logits.shape[1]), dim=-1)
    tops = [list(zip(row_ids, row, strict=True)) for row_ids, row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [TokenScore(*each) for each in zip(tokens.tolist(), own, tops, strict=True)]
