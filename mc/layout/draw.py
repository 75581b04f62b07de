"""Layouts for people: as lines of text that show which part is raw and which is gists of which level, and as runs of one level.

Shapes: `V` layouts of a row, `F` blocks, `W` entries, `n` runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from mc.layout.layout import Geometry, widths
from mc.layout.tiling import Tiling

LEVELS = "█▓▒░·"  # a level above the last is drawn as the last
DECISION = "│"


def draw_layouts(levels: Tensor, geometry: Geometry, length: int, horizon: int, names: Sequence[str], columns: int = 100) -> str:
    """A legend and one line for each layout of a row of `length` tokens, `levels` int64 [V,F] with V `names`.

    No line exceeds `columns` characters. A character stands for one block, or for several if the row is too long; it then shows their
    most frequent level, the most detailed one of equals.
    """
    F, K, T, H = levels.shape[1], geometry.block_size, length, horizon
    entries = [f"{width:,}" for width in widths(levels, T, geometry).tolist()]
    label, figure = max(map(len, names)), max(map(len, entries))
    room = columns - label - figure - 4  # spaces around the bar, the mark of the decision point, one to spare
    before, after = -(-(T - H) // K), -(-H // K)  # blocks before the decision point and after it
    share = max(1, -(-(before + after) // (room - 1)))  # blocks of a character; both sides of the mark are rounded up separately
    legend = _legend(range(min(int(levels.max()), len(LEVELS) - 1) + 1), K)
    unit = f"1 character = {share * K:,} tokens"
    lines = [f"{legend}  {DECISION} decision point", f"{unit}; at the end the entries for {T:,} tokens"]
    for name, row, width in zip(names, levels.tolist(), entries, strict=True):
        bar = _bar(row + [0] * (before - F), share) + DECISION + _bar([0] * after, share)
        lines.append(f"{name:<{label}} {bar} {width:>{figure}}")
    return "\n".join(lines)


def draw_history(tiling: Tiling, length: int, geometry: Geometry, columns: int = 64, lines: int = 8) -> str:
    """A legend and the history of `length` tokens covered by `tiling`, in at most `lines` lines of `columns` characters.

    A line begins with the number of its first token. A character stands for 1, 2, 4, 8 … blocks, as few as fit, and shows the most
    detailed level among their tokens, so that what the focus has opened is seen in a history of any length.
    """
    if not length:
        return "nothing yet"
    K, share = geometry.block_size, 1
    blocks = -(-length // K)
    while -(-blocks // share) > columns * lines:
        share *= 2
    begin = np.arange(0, length, share * K)
    first = tiling.start.searchsorted(begin, side="right") - 1
    last = tiling.start.searchsorted(begin + share * K)
    bounds = np.stack([first, last], axis=1).ravel()
    finest = np.minimum.reduceat(np.append(tiling.lod, 0), bounds)[::2].clip(max=len(LEVELS) - 1)
    bar = "".join(np.array(list(LEVELS))[finest])
    label = len(f"{begin[(len(bar) - 1) // columns * columns]:,}")
    shown = "the most detailed of them counts" if share > 1 else "a block"
    rows = [f"{begin[at]:>{label},} {bar[at : at + columns]}" for at in range(0, len(bar), columns)]
    return "\n".join([f"{_legend(np.unique(finest).tolist(), K)}  1 character = {share * K:,} tokens, {shown}", *rows])


def runs(tiling: Tiling, length: int, values: np.ndarray | None = None) -> np.ndarray:
    """[level, first token, end, entries, sum of values] of each run of entries of one level, float64 [n,5].

    `values` [W] has one number for each entry of `tiling`, which covers `length` tokens; None = all 0.
    """
    lod, start = tiling
    if not len(lod):
        return np.zeros((0, 5))
    values = np.zeros(len(lod)) if values is None else values
    first = np.flatnonzero(np.append(True, lod[1:] != lod[:-1]))
    ends, counts = np.append(start[first[1:]], length), np.diff(np.append(first, len(lod)))
    return np.stack([lod[first], start[first], ends, counts, np.add.reduceat(values, first)], axis=1).astype(np.float64)


def at_most(spans: np.ndarray, most: int) -> np.ndarray:
    """At most `most` runs: halves the number of `runs` as often as needed, merging neighbours into one of the longer one's level."""
    while len(spans) > most:
        pairs, rest = spans[: len(spans) // 2 * 2].reshape(-1, 2, 5), spans[len(spans) // 2 * 2 :]
        longer = (pairs[:, :, 2] - pairs[:, :, 1]).argmax(1)
        level = pairs[np.arange(len(pairs)), longer, 0]
        joint = np.stack([level, pairs[:, 0, 1], pairs[:, 1, 2], *pairs[:, :, 3:].sum(1).T], axis=1)
        spans = np.concatenate([joint, rest])
    return spans


def _legend(levels: Iterable[int], block_size: int) -> str:
    return "  ".join(f"{LEVELS[level]} {f'LOD{level}, {block_size**level:,} tokens' if level else 'raw'}" for level in levels)


def _bar(levels: Sequence[int], share: int) -> str:
    """One character for every `share` blocks."""
    drawn = []
    for begin in range(0, len(levels), share):
        counts = Counter(levels[begin : begin + share])
        level = max(sorted(counts), key=counts.__getitem__)
        drawn.append(LEVELS[min(level, len(LEVELS) - 1)])
    return "".join(drawn)
