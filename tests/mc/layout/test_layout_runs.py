"""Layouts as runs: nothing is lost, and fewer runs stand for the same tokens and entries."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mc.layout.draw import at_most, runs
from mc.layout.layout import Geometry
from mc.layout.tiling import Tiling
from mc.telemetry.schema import MOST_RUNS, allowed
from mc.telemetry.sessions import layout_payload
from tests.helpers.tiny_memory import entries, random_levels


def drawn(seed: int, blocks: int) -> tuple[Tiling, int]:
    rng = random.Random(seed)
    length = blocks * 4 + rng.randrange(9)
    places = entries(random_levels(rng, blocks, 4, 2), length, Geometry(4))
    lod, start = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return Tiling(lod.copy(), start.copy()), length


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 12))
def test_runs_stand_for_the_layout(seed: int, blocks: int, most: int) -> None:
    tiling, length = drawn(seed, blocks)
    values = np.arange(len(tiling.lod), dtype=np.float64)
    whole = runs(tiling, length, values)
    assert [level for level, _, _, count, _ in whole for _ in range(int(count))] == tiling.lod.tolist()
    assert (np.diff(whole[:, 0]) != 0).all() and whole[:, 4].sum() == values.sum()
    fewer = at_most(whole, most)
    assert len(fewer) <= most and fewer[:, 3].sum() == len(tiling.lod) and fewer[:, 4].sum() == values.sum()
    for spans in (whole, fewer):
        if len(spans):
            assert spans[0, 1] == 0 and spans[-1, 2] == length and (spans[1:, 1] == spans[:-1, 2]).all()


def test_a_layout_of_any_length_fits_an_event() -> None:
    tiling, length = drawn(3, 4_000)
    payload = layout_payload(tiling, length, 2 * len(tiling.lod), 4)
    assert allowed("working_context_snapshot", payload) == (payload, 0)
    assert payload["layout_runs"] > MOST_RUNS >= len(payload["layout_lod"]) > MOST_RUNS // 2
    assert sum(payload["layout_count"]) == sum(payload["entries_per_lod"]) == payload["entries"] == len(tiling.lod)
    assert payload["residency"] == 0.5 and payload["tokens"] == length
    empty = layout_payload(Tiling(tiling.lod[:0], tiling.start[:0]), 0, 8, 4)
    assert allowed("working_context_snapshot", empty) == (empty, 0) and empty["layout_lod"] == []
