import math
from datetime import date
from pathlib import Path

import pytest

from nanochat.common import UserError, read_json, write_json
from nanochat.lab import decisions
from nanochat.lab.cycle import BASELINE
from nanochat.lab.decisions import CycleState, cycle_state, plateau
from nanochat.lab.gates import OPTIONAL, PROMOTE, REJECT
from nanochat.lab.measurements import hashes, measure, variance
from nanochat.lab.scaling import fit_points, judge_series
from nanochat.lab.templates import best_of
from tests.helpers.planted import BATCH, STEPS, new_cycle, plant, plant_sweep

DAY = date(2026, 1, 2)


def test_a_planted_speed_up_is_promoted_and_told(base: Path) -> None:
    cycle = new_cycle()
    name = plant_sweep(cycle, speed_up=0.11)
    decision = decisions.decide(cycle, name, DAY)
    assert decision.judgement.verdict == PROMOTE
    text = decisions.entry(cycle, decision)
    assert text.startswith("## 2026-01-02 · Lab: X/lr\\_mult=1.1: promote\n") and "**Promote**: faster to the target: saves" in text
    assert "| baseline |" in text and "measured; by seed +" in text and "checkpoint and resume: passed; exact" in text
    decisions.keep(cycle, decision)
    (kept,) = decisions.kept(cycle)
    assert (kept["verdict"], kept["config_hash"]) == (PROMOTE, hashes(cycle)[name]) and kept["gain"] == pytest.approx(0.1, abs=0.02)
    assert best_of(cycle, "X") == name


@pytest.mark.parametrize("planted, verdict", [({"worse": 0.02}, REJECT), ({"worse": 0.02, "speed_up": 0.3}, REJECT), ({}, OPTIONAL)])
def test_planted_losses_are_rejected_and_noise_is_not_promoted(base: Path, planted: dict, verdict: str) -> None:
    cycle = new_cycle()
    name = plant_sweep(cycle, **planted)
    assert decisions.decide(cycle, name, DAY).judgement.verdict == verdict


def test_a_crash_is_a_row_and_a_reason(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    candidate = cycle.experiment("X/a", {"lr_mult": 9.0})
    for seed in cycle.seeds:
        plant(cycle, cycle.baseline, seed)
        plant(cycle, candidate, seed, status="diverged" if seed == 2 else "ok")
    found = decisions.decide(cycle, "X/a", DAY).judgement
    assert found.verdict == REJECT and "seed 2 diverged" in found.why
    rows = cycle.results.rows()
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "diverged"]
    assert rows[-1]["time_to_target_sec_measured"] == "" and rows[-1]["final_train_loss"] == ""
    assert measure(cycle, "X/a", cycle.seeds)[1].status == "diverged"


def test_times_are_those_of_the_curves(base: Path) -> None:
    cycle = new_cycle(threshold=2.0)
    plant(cycle, cycle.baseline, 1, end=1.5, tok_per_sec=500.0)
    (row,) = cycle.results.rows()
    # The value is 2.0 after three quarters of the run: 150 of 200 steps of 1000 tokens at 500 a second.
    assert float(row["time_to_target_sec_measured"]) == pytest.approx(0.75 * STEPS * BATCH / 500)
    assert float(row["dt_median_ms"]) == 2000 and float(row["tok_per_sec_median"]) == 500 and float(row["min_val_bpb"]) == 1.5
    assert float(row["wall_time_sec"]) == pytest.approx(STEPS * BATCH / 500 + 5) and row["extrapolation_method"] == ""
    assert float(row["target_param_data_ratio"]) == pytest.approx(STEPS * BATCH / 50_000) and row["hardware"] == "a machine"


def test_the_variance_of_the_baseline(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    for seed, end in ((1, 1.50), (2, 1.52)):
        plant(cycle, cycle.baseline, seed, end=end)
    found = variance(cycle)["min_val_bpb"]
    assert found == {
        "mean": pytest.approx(1.51),
        "deviation": pytest.approx(0.02 / 2**0.5),
        "relative": pytest.approx(0.02 / 2**0.5 / 1.51),
    }


@pytest.mark.parametrize("what, says", [("X/none", "no candidate 'X/none'"), (BASELINE, "no candidate 'baseline'")])
def test_unknown_candidates(base: Path, what: str, says: str) -> None:
    cycle = new_cycle()
    plant_sweep(cycle)
    with pytest.raises(UserError, match=says):
        decisions.decide(cycle, what, DAY)


def test_a_missing_seed_is_named(base: Path) -> None:
    cycle = new_cycle(seeds=2)
    plant(cycle, cycle.baseline, 1)
    with pytest.raises(UserError, match="baseline has no row for seed 2"):
        measure(cycle, BASELINE, cycle.seeds)


def test_entries_come_before_older_ones(tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    log.write_text("# Log\n\nNewest first.\n\n## Where we are\n\nHere.\n\n## 2025-05-05 · Old\n\nText.\n")
    decisions.write_log(log, "## 2026-01-02 · New\n\nMore.\n")
    assert log.read_text() == (
        "# Log\n\nNewest first.\n\n## Where we are\n\nHere.\n\n## 2026-01-02 · New\n\nMore.\n\n## 2025-05-05 · Old\n\nText.\n"
    )
    decisions.write_log(tmp_path / "empty.md", "## 2026-01-02 · New\n")
    assert (tmp_path / "empty.md").read_text() == "# Log\n\n## 2026-01-02 · New\n"


def plant_series(cycle, gains: dict[int, float], worse: float = 0.0) -> tuple[str, dict[int, float]]:
    name = plant_sweep(cycle, speed_up=0.11)
    for depth, gain in gains.items():
        flags = {**cycle.profile.flags, "depth": depth, "num_iterations": STEPS + 40 * depth}
        ours = cycle.experiment(f"miniseries/d{depth}/{name}", {"lr_mult": 1.1}, flags)
        theirs = cycle.experiment(f"miniseries/d{depth}/{BASELINE}", {}, flags)
        for seed in cycle.seeds:
            plant(cycle, theirs, seed, threshold=1.5, end=1.49, tok_per_sec=1000 + 3 * seed, steps=flags["num_iterations"])
            plant(
                cycle,
                ours,
                seed,
                threshold=1.5,
                end=1.49 + worse,
                tok_per_sec=(1000 + 2 * seed) / (1 - gain),
                steps=flags["num_iterations"],
            )
    return name, dict.fromkeys(gains, 1.5)


@pytest.mark.parametrize(
    "gains, worse, passed, says",
    [
        ({2: 0.1, 3: 0.08, 4: 0.09}, 0.0, True, "over 3 depths"),
        ({2: 0.1, 3: 0.08, 4: -0.02}, 0.0, False, "depth 4: no gain"),
        ({2: 0.1, 3: 0.1}, 0.009, False, "depth 2: quality lost"),
    ],
)
def test_a_gain_must_hold_at_every_depth(base: Path, gains: dict, worse: float, passed: bool, says: str) -> None:
    cycle = new_cycle()
    name, targets = plant_series(cycle, gains, worse)
    answer = judge_series(cycle, BASELINE, name, targets)
    assert answer["passed"] == passed and says in answer["why"]
    decision = decisions.decide(cycle, name, DAY)
    assert decision.judgement.verdict == (PROMOTE if passed else OPTIONAL)
    assert read_json(cycle.folder / "miniseries.json").keys() == {hashes(cycle)[name]}


def test_a_plateau_is_two_full_flat_cycles() -> None:
    flat, better = CycleState("one", (), 0.01, ()), CycleState("two", (), 0.05, ("B/x",))
    assert plateau([flat, flat])[0] and plateau([better, flat, flat])[0]
    assert not plateau([flat, better])[0] and not plateau([flat])[0]
    reached, lines = plateau([flat, CycleState("half", ("3 shape",), 0.0, ())])
    assert not reached and lines[-1] == "no plateau: 1 of 2 full cycles" and "half: not full, without 3 shape" in lines[1]


def test_a_cycle_as_the_plateau_sees_it(base: Path) -> None:
    cycle = new_cycle()
    name = plant_sweep(cycle, speed_up=0.11)
    decisions.keep(cycle, decisions.decide(cycle, name, DAY))
    state = cycle_state(cycle)
    assert (
        state.improvement == pytest.approx(0.1, abs=0.02)
        and state.missing[0] == "1 theory"
        and "5 miniseries of X/lr_mult=1.1" in state.missing
    )
    write_json(cycle.folder / "miniseries.json", {hashes(cycle)[name]: {"passed": True, "why": ""}})
    assert cycle_state(cycle).held == (name,)


def test_scaling_fits_find_planted_laws() -> None:
    points = []
    for budget in (1e12, 1e13, 1e14):
        best = 1e3 * (budget / 1e12) ** 0.5
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            value = 2.0 * (budget / 1e12) ** -0.05 + 0.03 * math.log(factor) ** 2
            points.append({"budget": budget, "depth": 1, "parameters": best * factor, "tokens": budget / best / factor, "value": value})
    found = fit_points(points)
    assert all(b["inside"] for b in found["best"]) and found["best"][0]["parameters"] == pytest.approx(1e3, rel=1e-3)
    assert found["laws"]["parameters"]["exponent"] == pytest.approx(0.5, abs=1e-3) and found["laws"]["parameters"]["r_squared"] > 0.999
    assert found["laws"]["value"]["exponent"] == pytest.approx(-0.05, abs=1e-3)
    with pytest.raises(UserError, match="three sizes"):
        fit_points(points[:2])
