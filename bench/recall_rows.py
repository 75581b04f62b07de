"""Rows that test recall: keys and values among filler, and later the keys again, whose values must be predicted.

Multi-query associative recall (HazyResearch/zoology, arXiv 2312.04927). Shapes: `B` rows, `T` tokens. Token numbers: keys
first, then values, then filler. A pair is a key and, right after it, its value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanochat.model.cross_entropy import IGNORE

FILLER = 32  # kinds of it


@dataclass(frozen=True)
class Task:
    """Rows of `length` tokens: `pairs` pairs before the last `tail` tokens, which ask for them.

    With `named`, only that number of keys is queried, in the second half of the tail; the first half names them.
    """

    length: int
    pairs: int
    keys: int
    values: int
    tail: int
    block_size: int
    named: int = 0

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.keys + self.values + FILLER

    @property
    def blocks(self) -> int:
        """Number of blocks before the tail."""
        return (self.length - self.tail) // self.block_size


EASY = Task(256, 8, 16, 16, 32, 8)
HARD = Task(512, 16, 64, 64, 64, 32)
FOCUS = Task(512, 16, 64, 64, 64, 32, named=2)


@dataclass(frozen=True)
class Rows:
    """Rows with their queries."""

    tokens: np.ndarray  # int64 [B, T+1]
    asked: np.ndarray  # int64 [B,Q], places of the queried keys; the value is the next token
    where: np.ndarray  # int64 [B,Q], places of the same keys' pairs

    @property
    def targets(self) -> np.ndarray:
        """int64 [B,T]: the queried values, everything else ignored."""
        targets = np.full((len(self.tokens), self.tokens.shape[1] - 1), IGNORE)
        rows = np.arange(len(targets))[:, None]
        targets[rows, self.asked] = self.tokens[rows, self.asked + 1]
        return targets


def make_rows(task: Task, count: int, seed: tuple[int, ...]) -> Rows:
    """`count` rows, a function of the seed."""
    random = np.random.default_rng(seed)
    far, row = task.length - task.tail, np.arange(count)[:, None]
    tokens = random.integers(task.keys + task.values, task.vocab_size, (count, task.length + 1))
    keys = random.random((count, task.keys)).argsort(1)[:, : task.pairs]
    values = random.integers(task.keys, task.keys + task.values, keys.shape)
    # Pairs do not overlap: places among what is left when each is one token long, then each moved by those before it.
    places = np.sort(random.random((count, far - task.pairs)).argsort(1)[:, : task.pairs], axis=1) + np.arange(task.pairs)
    tokens[row, places], tokens[row, places + 1] = keys, values
    queries, begin = task.named or task.pairs, far
    chosen = random.random((count, task.pairs)).argsort(1)[:, :queries]
    if task.named:
        begin += task.tail // 2
        tokens[row, far + random.random((count, task.tail // 2)).argsort(1)[:, :queries]] = keys[row, chosen]
    cell = (task.length - begin) // queries
    asked = np.broadcast_to(begin + np.arange(queries) * cell + cell - 2, chosen.shape)
    tokens[row, asked], tokens[row, asked + 1] = keys[row, chosen], values[row, chosen]
    return Rows(tokens, asked, places[row, chosen])
