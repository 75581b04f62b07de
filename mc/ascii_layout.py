"""Layouts as lines of text: which part of a row is raw, and which is gists of which level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mc.layout import widths

if TYPE_CHECKING:
    from torch import Tensor

    from mc.config import RowPlan

LEVELS = "█▒░·"  # a level above the last is drawn as the last
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
    present = range(min(int(levels.max()), len(LEVELS) - 1) + 1)
    meanings = [f"{LEVELS[level]} {f'LOD{level}, {K**level:,} tokens' if level else 'raw'}" for level in present]
    unit = f"1 character = {share * K:,} tokens"
    lines = ["  ".join([*meanings, f"{DECISION} decision point"]), f"{unit}; at the end the entries for {T:,} tokens"]
    for name, row, width in zip(names, levels.tolist(), entries, strict=True):
        bar = _bar(row + [0] * (before - F), share) + DECISION + _bar([0] * after, share)
        lines.append(f"{name:<{label}} {bar} {width:>{figure}}")
    return "\n".join(lines)


def _bar(levels: Sequence[int], share: int) -> str:
    """A character for every `share` blocks."""
    drawn = []
    for begin in range(0, len(levels), share):
        counts = Counter(levels[begin : begin + share])
        level = max(sorted(counts), key=counts.__getitem__)
        drawn.append(LEVELS[min(level, len(LEVELS) - 1)])
    return "".join(drawn)
