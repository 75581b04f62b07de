import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mc.config import MCConfig
from mc.eval.metric_bounds import MEMORY_BOUNDS, VARIANTS, expected, memory_bounds
from mc.row_plan import RowPlan
from nanochat.tracking.metric_bounds import LEVEL, RUN_BOUNDS, TREND, Band, Falling, MetricBound, Steady, Toward, Watch

MFU = next(target for target in RUN_BOUNDS if target.metric == "train/mfu")
RNG = np.random.default_rng(0)


def watch(targets, values, metric="m", steps=0) -> list[int]:
    """The steps at which there was an alert, of one value for each step from 1 on."""
    watching = Watch(targets, steps)
    return [a.step for step, value in enumerate(values, start=1) for a in watching.update({"step": step, metric: value})]


def target(rule) -> MetricBound:
    return MetricBound("m", rule, "meaning", "place")


# --- one line when a band is left ---


def test_a_level_out_of_its_band_is_told_once_and_again_after_it_was_where_it_should_be() -> None:
    low, between, good = [0.3] * LEVEL, [0.42] * LEVEL, [0.5] * LEVEL
    assert watch([MFU], [*good, *low, *low], "train/mfu") == [LEVEL + LEVEL // 2 + 1]
    assert len(watch([MFU], [*good, *low, *between, *low], "train/mfu")) == 1, "it wavers about the bound"
    assert len(watch([MFU], [*good, *low, *good, *low], "train/mfu")) == 2
    assert watch([MFU], [*good, *between, 0.01, 0.01], "train/mfu") == [], "two outliers are no level"


def test_what_is_out_at_the_end_is_known() -> None:
    watching = Watch([MFU], 0)
    for step in range(LEVEL):
        watching.update({"step": step, "train/mfu": 0.3})
    (alert,) = watching.outside()
    assert alert.record() == {"step": 4, "metric": "train/mfu", "value": 0.3, "band": "below 0.38", "message": alert.message}
    assert alert.message.startswith("train/mfu is 0.3, below 0.38 (aim: 0.45 … 0.55); look at --device-batch-size")
    for step in range(LEVEL):
        watching.update({"step": LEVEL + step, "train/mfu": 0.42})
    assert watching.outside() == []


def test_warm_up_does_not_count() -> None:
    values = [0.1] * 9 + [0.5] * 30
    assert watch([MFU], values, "train/mfu", steps=100) == []
    assert watch([MFU], values, "train/mfu", steps=20) == [6]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "0.1", True])
def test_what_is_no_number_does_not_count(value) -> None:
    assert watch([MFU], [value] * 30, "train/mfu") == []
    assert watch([MFU], [0.3, value] * LEVEL, "train/mfu") == [2 * LEVEL - 1]


def test_a_pattern_watches_each_of_its_metrics_alone() -> None:
    watching = Watch(MEMORY_BOUNDS, 0)
    for step in range(4):
        watching.update({"step": step, "mc/delta_nll@32": 0.05, "mc/delta_nll@128": 0.2, "mc/delta_nll_random@32": 0.9})
    assert [alert.metric for alert in watching.outside()] == ["mc/delta_nll@128"]


# --- bands ---


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_band_is_judged_by_the_median_of_its_newest_values(values: list[float]) -> None:
    judged = MFU.rule.judge(values)
    if len(values) < LEVEL:
        assert judged is None
        return
    level = sorted(values[-LEVEL:])[LEVEL // 2]
    assert judged.value == level
    assert (judged.wrong is not None) == (level < 0.38) and judged.reached == (0.45 <= level <= 0.55)


def test_a_share_that_flips_between_its_ends_is_out() -> None:
    rule = Steady(Band(0.05, 0.20, alert_high=0.25))
    assert "flipping" in rule.judge([0.0, 1.0] * 3).wrong
    assert rule.judge([0.1, 0.15, 0.0, 0.12, 0.2]).wrong is None
    assert rule.judge([0.0, 1.0, 0.1, 0.12, 0.1, 0.15, 0.1, 0.1]).wrong is None
    assert rule.judge([0.3] * 5).wrong == "above 0.25"
    assert rule.judge([0.1, 0.0, 1.0]) is None


# --- trends ---


def noisy(trend, n: int = 60, deviation: float = 0.05) -> list[float]:
    return [trend(i / n) + deviation * RNG.standard_normal() for i in range(n)]


def test_falling_is_told_from_rising_through_noise() -> None:
    rule = Falling()
    assert rule.judge([4.0] * (TREND - 1)) is None
    for _ in range(50):
        assert rule.judge(noisy(lambda x: 4 - x)).wrong is None
        rising = rule.judge(noisy(lambda x: 3 + x))
        assert "not falling" in rising.wrong and not rising.reached


def test_a_loss_that_falls_to_a_floor_gives_no_alert_on_the_way() -> None:
    alerts = [watch([target(Falling())], noisy(lambda x: 3 + 5 * math.exp(-6 * x), 300)) for _ in range(20)]
    assert sum(map(bool, alerts)) <= 2


def test_towards_a_goal() -> None:
    rule = Toward(0.0, slack=0.05, furthest=0.15)
    for _ in range(50):
        assert rule.judge(noisy(lambda x: 0.02, deviation=0.02)).wrong is None
        assert "moving away" in rule.judge(noisy(lambda x: 0.3 * x**2 - 0.05, deviation=0.01)).wrong
        assert "more than 0.15" in rule.judge(noisy(lambda x: 0.3, deviation=0.02)).wrong
        assert "more than 0.15" in rule.judge(noisy(lambda x: -0.3, deviation=0.02)).wrong


def test_towards_minus_one() -> None:
    rule = next(t.rule for t in MEMORY_BOUNDS if t.metric == "mc/preference_corr_mean")
    for _ in range(50):
        learning = rule.judge(noisy(lambda x: -0.8 * x, deviation=0.2))
        assert learning.wrong is None and learning.reached
        assert rule.judge(noisy(lambda x: 0.5, deviation=0.2)).wrong is not None
        assert "moving away" in rule.judge(noisy(lambda x: -0.9 + 0.8 * x, deviation=0.1)).wrong


# --- the table ---


def test_every_target_says_what_it_is() -> None:
    rows = [target.row() for target in (*RUN_BOUNDS, *MEMORY_BOUNDS)]
    assert all(all(row.values()) for row in rows) and len({row["metric"] for row in rows}) == len(rows)
    words = {row["metric"]: (row["aim"], row["alert"]) for row in rows}
    assert words["train/mfu"] == ("0.45 … 0.55", "below 0.38")
    assert words["heartbeat"] == ("at most 900", "above 900")
    assert words["mc/delta_nll@*"] == ("at most 0.1", "above 0.15")
    assert words["mc/swap_rate"] == ("0.05 … 0.2", "above 0.25, or flipping between 0 and 1")
    assert words["mc/residency"] == ("0.9 … 1", "below 0.8")
    assert words["mc/preference_corr_mean"][0] == "towards -1" and words["mc/adv_delta_mean"][0] == "towards 0"
    assert words["mc/variant_pack_ms"][1] == "above 10" and words["mc/time_controller_ms"][1] == "above 200"


@pytest.mark.parametrize(("settings", "variants"), [({"mc_num_random_variants": 3}, 3), ({"mc_target_tok_per_sec": 9.0}, 1)])
def test_variants_are_as_configured(settings, variants: int) -> None:
    least = expected(RowPlan(MCConfig(mc_enabled=True, block_size=8, mc_train_wc_length=200, **settings), 512), rows=4)
    assert least == {VARIANTS: 4 * variants}
    assert watch(memory_bounds(least), [4.0 * variants] * 6, VARIANTS) == []
    assert watch(memory_bounds(least), [4.0 * variants - 1] * 6, VARIANTS) == [LEVEL]
    assert watch(memory_bounds({}), [0.0] * 6, VARIANTS) == [LEVEL]


def test_no_more_variants_are_expected_than_there_are() -> None:
    plan = RowPlan(MCConfig(mc_enabled=True, mc_num_random_variants=50, block_size=32, mc_train_wc_length=100), 128)
    assert plan.blocks < 50 and expected(plan, 1)[VARIANTS] == min(plan.compression(plan.width(p)).possibilities for p in plan.stages)
