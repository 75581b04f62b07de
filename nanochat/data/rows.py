"""Row format with loss masking, and the `Loader` protocol.

A row is `T + 1` tokens: inputs are the first `T`, targets the last `T`. A masked token, which is read but not predicted (a
user's turn, the output of a tool, padding), is stored as its complement `~token`, so that one array of integers holds both.

Shapes: `B` rows, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from nanochat.model.cross_entropy import IGNORE


class Loader(Protocol):
    """Rows by number. A row depends on its number alone: not on the process that reads it, nor on what was read before."""

    seq_len: int
    rows_per_epoch: int
    fingerprint: str
    ahead: int = 2  # steps that may be read ahead; 0 if the rows depend on the weights

    def rows(self, a: int, b: int) -> np.ndarray:
        """Rows `a … b-1` as int32 [b-a, T+1]. Raises `ValueError` for an invalid range."""
        ...

    def weights(self, a: int, b: int) -> np.ndarray | None:
        """Loss weights of rows `a … b-1`, fp32 [b-a]; None if all are 1."""
        return None

    def figures(self) -> dict[str, float]:
        """Metrics of the rows read since the last call."""
        return {}

    def epoch_of(self, row: int) -> int:
        """The epoch of row number `row`, from 0."""
        return row // self.rows_per_epoch


def masked(tokens: Sequence[int], learned: Sequence[bool]) -> np.ndarray:
    """`tokens` as int32, masked except where `learned`."""
    ids = np.array(tokens, np.int32)
    return np.where(learned, ids, ~ids)


def masked_rows(count: int, seq_len: int, token: int) -> np.ndarray:
    """Rows of nothing but padding, the masked `token`: int32 [count, T+1]."""
    return np.full((count, seq_len + 1), ~token, np.int32)


def inputs_and_targets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, targets) int64 [B,T] of rows int64 [B,T+1]; targets of masked tokens are `IGNORE`."""
    inputs = rows[:, :-1]
    # The sign's bit shifted over all others: −1 for complements, which turns them back, and 0 for tokens.
    return inputs ^ (inputs >> 63), rows[:, 1:].clamp(min=IGNORE)


def count_targets(rows: np.ndarray) -> np.ndarray:
    """Number of tokens to predict in each row [B,T+1]: int64 [B]."""
    return (rows[:, 1:] >= 0).sum(1)
