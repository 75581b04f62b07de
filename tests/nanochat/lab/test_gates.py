import math
from collections.abc import Sequence

import numpy as np
import pytest

from nanochat.lab.gates import LEAST_GAIN, OPTIONAL, PROMOTE, REJECT, Gate, GateJudgement, Measured, judge
from nanochat.lab.statistics import LEVEL

EXACT = Gate("checkpoint and resume", True, "exact")


def runs(
    gain: float = 0.0, seeds: int = 3, noise: float = 0.008, seed: int = 0, worse: float = 0.0, pace: float = 0.0, **last
) -> list[Measured]:
    """Runs that save `gain` of the time to the target and `pace` of the whole; `last` changes the last one."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(seeds):
        wobble = math.exp(noise * rng.standard_normal())
        values = {
            "seconds_to_target": 90 * wobble * (1 - gain), "steady_seconds": 100 * wobble * (1 - pace),
            "final_loss": 4 + worse + 0.004 * rng.standard_normal(), "min_bpb": 1.5 + worse / 4 + 0.0005 * rng.standard_normal(),
        }  # fmt: skip
        values |= {"status": "ok", "uncertainty": 0.0} | (last if number == seeds - 1 else {})
        out.append(Measured(number, **values))
    return out


def judged(ours: Sequence[Measured], theirs: Sequence[Measured] | None = None, resume: Gate = EXACT) -> GateJudgement:
    return judge({"baseline": runs(seed=99) if theirs is None else theirs, "c": ours}, "c", "baseline", resume)


def test_a_speed_up_of_a_tenth_is_promoted() -> None:
    verdicts = [judged(runs(gain=0.1, noise=0.005, seed=s), runs(noise=0.005, seed=s + 1000)).verdict for s in range(50)]
    assert verdicts.count(PROMOTE) >= 45 and REJECT not in verdicts
    found = judged(runs(gain=0.1, noise=0.004))
    assert found.gain_share == pytest.approx(0.1, abs=0.02) and found.gain.low > 0 and all(gate.passed for gate in found.gates)


@pytest.mark.parametrize("seeds, noise", [(2, 0.01), (3, 0.01), (3, 0.03), (5, 0.02)])
def test_noise_is_never_promoted(seeds: int, noise: float) -> None:
    """50 of 50 candidates that change nothing: the stated level is 1 % for a sweep, so half a candidate of 50 is what chance has."""
    verdicts = [judged(runs(seeds=seeds, noise=noise, seed=s), runs(seeds=seeds, noise=noise, seed=s + 1000)).verdict for s in range(50)]
    assert verdicts.count(PROMOTE) == 0


def test_noise_is_promoted_less_often_than_the_level_in_sweeps_of_eight() -> None:
    rng = np.random.default_rng(5)
    promoted = 0
    for _ in range(150):
        table = {f"c{i}": runs(noise=0.03, seed=int(rng.integers(1 << 31))) for i in range(9)}
        promoted += any(judge(table, f"c{i}", "c0", EXACT, among=8).verdict == PROMOTE for i in range(1, 9))
    assert promoted <= 150 * LEVEL + 3 * math.sqrt(150 * LEVEL)


@pytest.mark.parametrize("worse, name", [(0.06, "final training loss"), (0.03, "validation bits per byte")])
def test_a_loss_of_quality_rejects_whatever_the_speed(worse: float, name: str) -> None:
    found = judged(runs(gain=0.3, worse=worse))
    assert found.verdict == REJECT and name in found.why


@pytest.mark.parametrize(
    "last, says",
    [
        ({"status": "diverged"}, "seed 2 diverged"),
        ({"status": "crashed"}, "seed 2 crashed"),
        ({"bad_batches": 2}, "2 steps without a finite loss"),
        ({"spike": 0.3}, "the loss rose by 30%"),
    ],
)
def test_instability_rejects(last: dict, says: str) -> None:
    found = judged(runs(gain=0.3, **last))
    assert found.verdict == REJECT and says in found.why


def test_a_resume_that_differs_rejects() -> None:
    found = judged(runs(gain=0.3), resume=Gate("checkpoint and resume", False, "model.safetensors differ"))
    assert found.verdict == REJECT and "model.safetensors differ" in found.why


def test_what_is_slower_beyond_doubt_is_rejected_and_what_may_be_is_optional() -> None:
    assert judged(runs(gain=-0.2, noise=0.003), runs(noise=0.003, seed=9)).verdict == REJECT
    assert judged(runs(gain=-0.005)).verdict == OPTIONAL


def test_faster_on_two_seeds_of_three_is_not_enough() -> None:
    theirs = runs(noise=0.001)
    found = judged(runs(gain=0.1, noise=0.001, seconds_to_target=91.0), theirs)
    assert found.verdict == OPTIONAL and not found.gain.always_positive


def test_a_gain_below_the_least_counts_as_none() -> None:
    found = judged(runs(gain=LEAST_GAIN / 2, noise=0.00005), runs(noise=0.00005, seed=9))
    assert found.gain.low > 0 and found.verdict == OPTIONAL


def test_less_wall_time_at_equal_quality_is_the_other_way() -> None:
    never = [Measured(r.seed, r.status, None, 0.0, r.steady_seconds, r.final_loss, r.min_bpb) for r in runs(pace=0.05, noise=0.001)]
    base = [Measured(r.seed, r.status, None, 0.0, r.steady_seconds, r.final_loss, r.min_bpb) for r in runs(noise=0.001, seed=9)]
    found = judged(never, base)
    assert found.verdict == PROMOTE and found.why.startswith("less wall time at equal quality")
    slight = [
        Measured(r.seed, r.status, None, 0.0, 0.98 * b.steady_seconds, r.final_loss, r.min_bpb) for r, b in zip(never, base, strict=True)
    ]
    assert judged(slight, base).verdict == OPTIONAL


def test_doubt_about_an_extrapolation_widens_the_interval() -> None:
    sure = judged(runs(gain=0.1, noise=0.002))
    guessed = [Measured(**vars(r) | {"uncertainty": 0.2}) for r in runs(gain=0.1, noise=0.002)]
    unsure = judged(guessed)
    assert sure.verdict == PROMOTE and unsure.verdict == OPTIONAL and unsure.gain.low < sure.gain.low


def test_guesses_of_others_do_not_blur_what_was_measured() -> None:
    table = {"baseline": runs(noise=0.004, seed=9), "c": runs(gain=0.1, noise=0.004), "d": runs(noise=0.004, seed=3)}
    guessed = [Measured(**vars(r) | {"uncertainty": 0.1, "seconds_to_target": 90 * 3**r.seed}) for r in runs()]
    alone, beside = (judge(table | more, "c", "baseline", EXACT, among=3) for more in ({}, {"e": guessed}))
    assert alone.verdict == beside.verdict == PROMOTE and alone.gain == beside.gain
