"""The variant count follows the clock."""

from __future__ import annotations

import time

import pytest
import torch

from mc.train.variant_sampler import PATIENCE, VariantThrottle


def run(pace: VariantThrottle, micro_batches: int, clock: list[float], seconds_per_variant: float) -> None:
    for _ in range(micro_batches):
        pace.saw(1000)
        clock[0] += seconds_per_variant * pace.variants


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_it_finds_as_many_variants_as_the_target_allows(clock: list[float]) -> None:
    pace = VariantThrottle(460.0, 6, torch.device("cpu"))  # 1000 tokens take a second for each variant
    run(pace, 12 * PATIENCE, clock, 1.0)
    assert pace.variants == 2
    run(pace, 30 * PATIENCE, clock, 0.1)  # ten times as fast: all of them
    assert pace.variants == 6
    run(pace, 40 * PATIENCE, clock, 100.0)  # hopeless: one is left
    assert pace.variants == 1


def test_without_a_target_nothing_changes(clock: list[float]) -> None:
    pace = VariantThrottle(0.0, 4, torch.device("cpu"))
    run(pace, 10 * PATIENCE, clock, 1e6)
    assert pace.variants == 4


def test_a_pause_does_not_count(clock: list[float]) -> None:
    pace = VariantThrottle(460.0, 2, torch.device("cpu"))
    for _ in range(10 * PATIENCE):
        run(pace, 1, clock, 1.0)
        clock[0] += 1e6
        pace.restart()
    assert pace.variants == 2
