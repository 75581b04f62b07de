"""Layouts as lines of text: which part of a row or of a history is raw, and which is gists of which level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mc.layout import widths

if TYPE_CHECKING:
    from torch import Tensor

    from mc.config import RowPlan
    from mc.edits import Tiling
    from mc.layout import Geometry

LEVELS = "█▓▒░·"  # a level above the last is drawn as the last
DECISION = "│"


def draw_layouts(levels: Tensor, plan: RowPlan, names: Sequence[str] = (), columns: int = 100) -> str:
    """One line for each layout of a row, `levels` int64 [V,F], under a legend; no line is longer than `columns` characters.

    A character stands for a block, or where blocks are too many for as many of them as it takes, whose most frequent level
    it shows, the most detailed of equals. Raises `ValueError` where `columns` leave no room or `names` are not one for each.
    """
    V = levels.shape[0]
    names = names or [f"layout {v}" for v in range(V)]
    if len(names) != V:
        raise ValueError(f"{len(names)} names for {V} layouts")
    K, F, T, H = plan.config.block_size, plan.blocks, plan.length, plan.horizon
    entries = [f"{width:,}" for width in widths(levels, T, plan.config.geometry).tolist()]
    label, figure = max(map(len, names)), max(map(len, entries))
    room = columns - label - figure - 4  # spaces around the bar, the mark of the decision point, one to spare
    before, after = -(-(T - H) // K), -(-H // K)  # blocks before the decision point and after it
    if room < 2:
        raise ValueError(f"columns is {columns}; names and widths leave {room} of them for the layouts")
    share = max(1, -(-(before + after) // (room - 1)))  # blocks of a character: each side of the mark is rounded up by itself
    legend = _legend(range(min(int(levels.max()), len(LEVELS) - 1) + 1), K)
    unit = f"1 character = {share * K:,} tokens"
    lines = [f"{legend}  {DECISION} decision point", f"{unit}; at the end the entries for {T:,} tokens"]
    for name, row, width in zip(names, levels.tolist(), entries, strict=True):
        bar = _bar(row + [0] * (before - F), share) + DECISION + _bar([0] * after, share)
        lines.append(f"{name:<{label}} {bar} {width:>{figure}}")
    return "\n".join(lines)


def draw_history(tiling: Tiling, length: int, geometry: Geometry, columns: int = 64, lines: int = 8) -> str:
    """The history of `length` tokens that `tiling` stands for, in at most `lines` lines of `columns` characters under a legend.

    A line begins with the number of its first token. A character stands for a block, or where blocks are too many for 2, 4, 8 …
    of them, and shows the most detailed level that any of their tokens have: however long the history, what the focus has
    opened is seen. Raises `ValueError` where there is no room at all.
    """
    if columns < 1 or lines < 1:
        raise ValueError(f"columns is {columns} and lines {lines}; both must be at least 1")
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


def _legend(levels: Iterable[int], block_size: int) -> str:
    return "  ".join(f"{LEVELS[level]} {f'LOD{level}, {block_size**level:,} tokens' if level else 'raw'}" for level in levels)


def _bar(levels: Sequence[int], share: int) -> str:
    """A character for every `share` blocks."""
    drawn = []
    for begin in range(0, len(levels), share):
        counts = Counter(levels[begin : begin + share])
        level = max(sorted(counts), key=counts.__getitem__)
        drawn.append(LEVELS[min(level, len(LEVELS) - 1)])
    return "".join(drawn)
