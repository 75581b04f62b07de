"""Layouts as runs: entries of one level side by side are one row of numbers, which is short enough to show or to send."""

from __future__ import annotations

import numpy as np

from mc.edits import Tiling


def runs(tiling: Tiling, length: int, values: np.ndarray | None = None) -> np.ndarray:
    """[level, first token, end, entries, sum of values] of each run of the layout of `length` tokens, float64 [n,5].

    `values` [W] are one for each entry, None = 0.
    """
    lod, start = tiling
    if not len(lod):
        return np.zeros((0, 5))
    values = np.zeros(len(lod)) if values is None else values
    first = np.flatnonzero(np.append(True, lod[1:] != lod[:-1]))
    ends, counts = np.append(start[first[1:]], length), np.diff(np.append(first, len(lod)))
    return np.stack([lod[first], start[first], ends, counts, np.add.reduceat(values, first)], axis=1).astype(np.float64)


def at_most(spans: np.ndarray, most: int) -> np.ndarray:
    """`runs` in less detail, where they are more than `most`: neighbours become one, of the level that stands for more tokens."""
    while len(spans) > most:
        spans = _halved(spans)
    return spans


def _halved(spans: np.ndarray) -> np.ndarray:
    pairs, rest = spans[: len(spans) // 2 * 2].reshape(-1, 2, 5), spans[len(spans) // 2 * 2 :]
    longer = (pairs[:, :, 2] - pairs[:, :, 1]).argmax(1)
    level = pairs[np.arange(len(pairs)), longer, 0]
    joint = np.stack([level, pairs[:, 0, 1], pairs[:, 1, 2], *pairs[:, :, 3:].sum(1).T], axis=1)
    return np.concatenate([joint, rest])
