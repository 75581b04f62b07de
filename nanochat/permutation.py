"""A shuffle that needs no table: a permutation of numbers, computed where it is asked for."""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_ONE = np.uint64(1)


def permute(numbers: np.ndarray, size: int, key: str) -> np.ndarray:
    """A permutation of `0 … size-1`, different for each `key`, at `numbers` (int64): no table, no state, no library's generator.

    A Feistel network over the next power of two; what falls outside is sent through again until it is inside (cycle walking).
    """
    bits = (size - 1).bit_length()
    low, high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest(), "<u8").astype(np.uint64)
    out = numbers.astype(np.uint64)
    outside = np.arange(len(out))
    while len(outside):
        x = out[outside]
        for round_key in keys:
            # The halves change places each round; with an odd number of bits their widths do too.
            left, right = x >> low, x & ((_ONE << low) - _ONE)
            mixed = (right ^ round_key) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left ^= (mixed >> np.uint64(32)) & ((_ONE << high) - _ONE)
            x = (right << high) | left
            low, high = high, low
        out[outside] = x
        outside = outside[x >= size]
    return out.astype(np.int64)
