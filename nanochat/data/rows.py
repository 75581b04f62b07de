"""Rows of tokens, some of which are there to be read and not to be learned, and what hands them out.

A row is `T + 1` tokens: inputs are the first `T`, targets the last `T`. A token that is not to be predicted (a user's turn,
the output of a tool, padding) is stored as its complement `~token`, so that one array of integers says both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from nanochat.model.cross_entropy import IGNORE


class Loader(Protocol):
    """Rows with numbers. What a step reads depends on the numbers of its rows alone, and not on who asks or what was read before."""

    seq_len: int
    rows_per_epoch: int
    fingerprint: str
    ahead: int = 2  # steps that may be read before their turn; 0 where the rows depend on the weights

    def rows(self, a: int, b: int) -> np.ndarray:
        """Rows `a … b-1` as int32 [b-a, T+1]."""
        ...

    def weights(self, a: int, b: int) -> np.ndarray | None:
        """What multiplies the losses of rows `a … b-1`, fp32 [b-a]; None where all count alike."""
        return None

    def figures(self) -> dict[str, float]:
        """Metrics of the rows that were handed out since the last call."""
        return {}

    def epoch_of(self, row: int) -> int:
        """The epoch that row number `row` belongs to, from 0."""
        ...


def inputs_and_targets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, targets) int64 [B,T] of rows int64 [B,T+1]; targets are `IGNORE` where there is nothing to learn."""
    inputs = rows[:, :-1]
    # The sign's bit shifted over all others: −1 for complements, which turns them back, and 0 for tokens.
    return inputs ^ (inputs >> 63), rows[:, 1:].clamp(min=IGNORE)


def count_targets(rows: np.ndarray) -> np.ndarray:
    """How many tokens of each row [B,T+1] are to be predicted: int64 [B]."""
    return (rows[:, 1:] >= 0).sum(1)
