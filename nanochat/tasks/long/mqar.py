"""Multi-query associative recall: rows of token ids with pairs of key and value, and later the keys again.

The definition of HazyResearch/zoology, `zoology/data/multiquery_ar.py` (arXiv 2312.04927), in one pass over the pairs:

    position    0  1  2  3 | 4  5  6  7  8  9 10 11 …
    tokens      k1 v1 k2 v2| k2 ·  ·  ·  k1 ·  ·  ·
    targets     ·  ·  ·  · | v2 ·  ·  ·  v1 ·  ·  ·

The tokens after the queries are random, not the values. Shapes: `B` rows, `T` tokens, `P` pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanochat.model.cross_entropy import IGNORE
from nanochat.tasks.procedural import at_least


@dataclass(frozen=True)
class MqarRows:
    """Rows with their queries. Column p is pair p of the row."""

    tokens: np.ndarray  # int64 [B,T]
    asked: np.ndarray  # int64 [B,P], positions of the queries, where predictions are scored
    values: np.ndarray  # int64 [B,P], correct predictions
    pairs: np.ndarray  # int64 [B,P], positions of the keys in the list of pairs; each value follows its key

    @property
    def targets(self) -> np.ndarray:
        """int64 [B,T]: the values at the queries, all else ignored."""
        targets = np.full_like(self.tokens, IGNORE)
        np.put_along_axis(targets, self.asked, self.values, axis=1)
        return targets


def mqar(
    count: int, length: int, seed: int, vocab_size: int = 8192, pairs: int = 8, power: float = 0.01, random_filler: bool = True
) -> MqarRows:
    """`count` rows of `length` tokens, even, of which the first `2 · pairs` are the pairs; a function of the arguments.

    Keys are different ids in [1, V/2) and values in [V/2, V), V = `vocab_size`. The distance of a query follows a power law:
    place j = 1, 2, … after the pairs, two tokens each, has the weight `j^(power−1)`, and no two queries share a place; `power` 1
    is uniform. Between the queries are random ids of the whole vocabulary, or 0 without `random_filler`. Raises `ValueError` for
    invalid arguments.
    """
    at_least(1, count=count, pairs=pairs)
    at_least(0, seed=seed)
    if length % 2 or length < 4 * pairs:
        raise ValueError(f"length is {length}; it must be even and at least {4 * pairs}, four tokens for each of {pairs} pairs")
    if vocab_size <= length:
        raise ValueError(f"vocab_size is {vocab_size}; it must be above length={length}")
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; it must be above 0 and at most 1")
    rng = np.random.default_rng([seed, length, pairs])
    half, begin = vocab_size // 2, 2 * pairs
    keys = _different(rng, count, pairs, half - 1) + 1
    values = _different(rng, count, pairs, vocab_size - half) + half
    weights = np.arange(1, (length - begin) // 2 + 1) ** (power - 1.0)
    asked = begin + 2 * _weighted(rng, count, pairs, weights)
    tokens = rng.integers(0, vocab_size, (count, length)) if random_filler else np.zeros((count, length), np.int64)
    tokens[:, 0:begin:2], tokens[:, 1:begin:2] = keys, values
    np.put_along_axis(tokens, asked, keys, axis=1)
    return MqarRows(tokens, asked, values, np.broadcast_to(np.arange(0, begin, 2), keys.shape))


def _different(rng: np.random.Generator, count: int, chosen: int, of: int) -> np.ndarray:
    """int64 [count, chosen]: different numbers below `of` in each row, in random order."""
    return _weighted(rng, count, chosen, np.ones(of))


def _weighted(rng: np.random.Generator, count: int, chosen: int, weights: np.ndarray) -> np.ndarray:
    """int64 [count, chosen]: weighted sampling without replacement of indices in each row.

    The largest of log weight + Gumbel noise, in order, are such samples (Efraimidis and Spirakis 2006).
    """
    noisy = np.log(weights) + rng.gumbel(size=(count, len(weights)))
    top = np.argpartition(-noisy, chosen - 1, axis=1)[:, :chosen]
    order = np.argsort(-np.take_along_axis(noisy, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)
