"""Packing of documents into rows of `seq_len + 1` tokens, by best fit.

A plan concatenates the rows of a shard and lists the pieces that fill them: `source` int64 [pieces] is where a piece
begins in the shard, `target` int64 [pieces + 1] where it begins in the rows, so row `r` is target positions
`[r · (seq_len + 1), (r + 1) · (seq_len + 1))`. Every piece begins with BOS, whatever the token at its source position: the
continuation of a long document begins one token early, where the reader puts the BOS.
"""

from __future__ import annotations

import bisect
import itertools

import numpy as np

VERSION = 1  # of the plans; another version is another order of the data

AHEAD = 256  # whole pieces to choose from, for the rest of a row

PackingPlan = np.ndarray  # int64 [2, pieces + 1]: source (its last entry unused) and target


def ranges(begin: np.ndarray | int, length: np.ndarray) -> np.ndarray:
    """The ranges `begin[i] … begin[i] + length[i] - 1`, concatenated: int64 [sum of lengths]."""
    return np.arange(length.sum()) + np.repeat(begin - (np.cumsum(length) - length), length)


def plan_bestfit(offsets: np.ndarray, seq_len: int) -> PackingPlan:
    """Packs the documents between `offsets` (int64 [documents + 1], BOS first in each) into whole rows.

    Documents are cut into pieces of `seq_len` tokens after their BOS. Then each row takes the longest piece that fits into
    what is free, again and again; if none fits, the shortest remaining piece is cropped to fill the row. A single free slot takes
    a BOS alone. A remainder that fills no row is dropped, and so are documents of nothing but BOS. The rows are in the order of
    their first pieces in the text. karpathy/nanochat has the same idea over a small buffer.
    """
    capacity = seq_len + 1
    start, length = _pieces(offsets, seq_len)
    full = np.flatnonzero(length == capacity)
    rest = np.flatnonzero(length < capacity)
    row, piece, size = _pack(rest, length, capacity)
    # Rows of one full piece and packed rows, in the order of the first (longest) piece of each.
    first = np.flatnonzero(np.diff(row, prepend=-1))
    rank = np.empty(len(full) + len(first), np.int64)
    rank[np.argsort(np.concatenate([full, piece[first]]), kind="stable")] = np.arange(len(rank))
    order = np.argsort(np.concatenate([rank[: len(full)], rank[len(full) :][row]]), kind="stable")
    sizes = np.concatenate([np.full(len(full), capacity), size])[order]
    plan = np.zeros((2, len(order) + 1), np.int64)
    plan[0, :-1] = start[np.concatenate([full, piece])[order]]
    np.cumsum(sizes, out=plan[1, 1:])
    return plan


def _pieces(offsets: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Source position and length (BOS included, 2 … seq_len + 1) of each piece, in the order of the text."""
    content = np.diff(offsets) - 1
    pieces = -(-content // seq_len)
    document = np.repeat(np.arange(len(content)), pieces)
    begin = ranges(0, pieces) * seq_len
    return offsets[document] + begin, np.minimum(content[document] - begin, seq_len) + 1


def pack_whole(length: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs pieces of `length` (int64, 1 … capacity) whole into rows of `capacity`: row number and piece of each, row after row.

    A row takes the next piece; if that is too long, the longest that fits of the next `AHEAD`; if none does, the rest of the row is
    for padding. So a row is a mix of pieces, as they come: rows of like lengths are rows of like conversations, and are learned slower.
    """
    rows, pieces, row, free = [], [], 0, capacity
    coming = iter(enumerate(length.tolist()))
    ahead: dict[int, int] = {}  # the length of each of the next pieces, in their order
    by_length: list[tuple[int, int]] = []  # the same, sorted
    while True:
        for piece, size in itertools.islice(coming, AHEAD - len(ahead)):
            ahead[piece] = size
            bisect.insort(by_length, (size, piece))
        if not ahead:
            return np.array(rows, np.int64), np.array(pieces, np.int64)
        piece, size = next(iter(ahead.items()))
        at = bisect.bisect_left(by_length, (size, piece) if size <= free else (free + 1, -1)) - (size > free)
        if at < 0:
            row, free = row + 1, capacity
            continue
        size, piece = by_length.pop(at)
        del ahead[piece]
        rows.append(row)
        pieces.append(piece)
        free -= size


def _pack(rest: np.ndarray, length: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best fit over the pieces `rest`: row number, piece and used size of each placed piece, row after row.

    The choice depends only on how many pieces of each length are left, so it is made for lengths: a row's pattern of lengths
    holds for as many rows as there are pieces for it.
    """
    by_length = rest[np.argsort(length[rest], kind="stable")]
    count = np.bincount(length[rest], minlength=capacity + 1)
    patterns, repeats = _patterns(count.tolist(), capacity)
    entries = np.array([entry for pattern in patterns for entry in pattern], np.int64).reshape(-1, 2)  # (length, used size)
    entry_count = np.array([len(pattern) for pattern in patterns], np.int64)
    pattern_of_row = np.repeat(np.arange(len(patterns)), np.array(repeats, np.int64))
    placed = entry_count[pattern_of_row]  # pieces per row
    row = np.repeat(np.arange(len(placed)), placed)
    chosen = entries[ranges((np.cumsum(entry_count) - entry_count)[pattern_of_row], placed)]
    # The n-th use of a length takes the n-th piece of that length; a lone BOS (length 1) borrows that of any piece.
    use = np.argsort(chosen[:, 0], kind="stable")
    uses = np.bincount(chosen[:, 0], minlength=capacity + 1)
    slot = ranges(np.cumsum(count) - count, uses)
    piece = np.empty(len(use), np.int64)
    piece[use] = by_length[np.where(chosen[use, 0] == 1, 0, slot)]
    return row, piece, chosen[:, 1]


def _patterns(count: list[int], capacity: int) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Rows as lists of (length, used size), and how often each is repeated, given `count[length]` pieces of each length."""
    patterns, repeats = [], []
    left = sum(1 << length for length, n in enumerate(count) if n)  # bit set: lengths that still have pieces
    while left:
        pattern: list[tuple[int, int]] = []
        used: dict[int, int] = {}
        here, free = left, capacity
        while free > 1 and here:
            fitting = here & ((2 << free) - 1)
            longest = fitting.bit_length() - 1
            length = longest if fitting else (here & -here).bit_length() - 1  # the shortest, to be cropped
            used[length] = used.get(length, 0) + 1
            if used[length] == count[length]:
                here ^= 1 << length
            pattern.append((length, min(length, free)))
            free -= pattern[-1][1]
        if free > 1:
            break
        if free == 1:
            pattern.append((1, 1))
        # Until a length runs out, each row sees the same lengths and so chooses the same.
        times = min(count[length] // n for length, n in used.items())
        for length, n in used.items():
            count[length] -= n * times
            if not count[length]:
                left ^= 1 << length
        patterns.append(pattern)
        repeats.append(times)
    return patterns, repeats
