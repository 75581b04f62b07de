"""The allow-list: whatever a payload holds, only numbers and words of the schema come through."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mc.telemetry.schema import EVENTS, MOST_RUNS, PREFIX, allowed, schema

ANYTHING = st.one_of(
    st.text(),
    st.binary(),
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(),
    st.lists(st.one_of(st.integers(), st.text(), st.floats()), max_size=4),
    st.dictionaries(st.text(), st.integers(), max_size=2),
)
LISTED = sorted({name for event in EVENTS.values() for name in event.attributes})


def test_the_events_and_the_figures_of_mc_timing_are_there() -> None:
    events = schema()
    assert {"mc_tree_snapshot", "working_context_snapshot", "focus_allocator", "mc_timing", "inference_update"} <= events.keys()
    timings = ("build", "positional", "lens_loss", "lens_forward", "lens", "variant_pack", "other", "time_controller")
    assert {f"mc.{name}_ms" for name in timings} | {"mc.step", "mc.tokens"} <= events["mc_timing"].keys()
    assert all(name.startswith(PREFIX) and meaning for event in events.values() for name, meaning in event.items())


@given(st.sampled_from(sorted(EVENTS)), st.dictionaries(st.one_of(st.text(), st.sampled_from(LISTED)), ANYTHING, max_size=8))
def test_only_what_is_listed_comes_through(event_type: str, payload: dict[str, Any]) -> None:
    kept, left_out = allowed(event_type, payload)
    assert len(kept) + left_out == len(payload)
    for name, value in kept.items():
        attribute = EVENTS[event_type].attributes[name]
        numbers = value if isinstance(value, list) else [value]
        if attribute.kind == "word":
            assert value in attribute.words
        else:
            assert all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            assert attribute.kind == "number" or all(-(1 << 63) <= number < 1 << 63 for number in numbers)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("tokens", 3, True), ("tokens", -(1 << 63), True), ("tokens", 1 << 63, False), ("tokens", 3.0, False), ("tokens", True, False),
        ("residency", 0.5, True), ("residency", 1, True), ("residency", math.nan, False), ("residency", math.inf, False),
        ("layout_lod", [0, 2], True), ("layout_lod", [0] * MOST_RUNS, True), ("layout_lod", [0] * (MOST_RUNS + 1), False),
        ("layout_lod", (0, 2), False), ("layout_lod", [0, "my prompt"], False), ("layout_lod", [0.5], False),
        ("where", "row", True), ("where", "home", False), ("where", 1, False),
        ("prompt", "who am I?", False), ("mc.tokens", 3, False), ("session", "my diary", False),
    ],
)  # fmt: skip
def test_what_fits(name: str, value: Any, fits: bool) -> None:
    assert allowed("working_context_snapshot", {name: value}) == (({name: value}, 0) if fits else ({}, 1))


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid telemetry event type 'my prompt': expected one of mc_timing, "):
        allowed("my prompt", {})
