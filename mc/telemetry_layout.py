"""A layout as an event says it: how many entries of which level, and in order the runs of entries of one level."""

from __future__ import annotations

import numpy as np

from mc.layout.draw import at_most, runs
from mc.layout.tiling import Tiling
from mc.telemetry_schema import MOST_RUNS, Value


def layout_payload(tiling: Tiling, length: int, budget: int, recent: int) -> dict[str, Value]:
    """Of the layout of `length` tokens; `budget` entries are allowed, and the last `recent` tokens stay raw."""
    spans = runs(tiling, length)
    lod, start, _, count, _ = at_most(spans, MOST_RUNS).astype(np.int64).T.tolist()
    entries = len(tiling.lod)
    return {
        "tokens": length,
        "entries": entries,
        "budget": budget,
        "residency": entries / budget,
        "recent": recent,
        "entries_per_lod": np.bincount(tiling.lod).tolist(),
        "layout_lod": lod,
        "layout_start": start,
        "layout_count": count,
        "layout_runs": len(spans),
    }
