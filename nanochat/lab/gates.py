"""Gates that a candidate must pass at the baseline's scale, and the verdict they lead to.

Faster means: at every seed; by at least 2 %, and by more than two sets of seeds of the baseline would differ; and significantly.
The two ways to be faster, to the target or through the run, share the level `statistics.LEVEL` of the whole sweep.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanochat.lab.curve import SPIKE
from nanochat.lab.run_outcome import OK
from nanochat.lab.statistics import Comparison, compare

PROMOTE, OPTIONAL, REJECT = "promote", "keep optional", "reject"
LEAST_GAIN = 0.02  # time saved to the target; less counts as no improvement for the plateau too
LEAST_PACE_GAIN = 0.03  # wall time saved at equal quality, if the target is not reached sooner
MOST_LOSS = 0.01  # final training loss above the baseline's, relative
MOST_BPB = 0.005  # validation bits per byte above the baseline's median


@dataclass(frozen=True)
class Measured:
    """Figures of a run that the gates use."""

    seed: int
    status: str
    seconds_to_target: float | None  # None if it never reaches the target
    uncertainty: float  # of the logarithm of that; 0 if measured, not extrapolated
    steady_seconds: float  # the whole run at its median pace
    final_loss: float
    min_bpb: float | None
    bad_batches: int = 0
    spike: float = 0.0


@dataclass(frozen=True)
class Gate:
    """Condition and finding."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class GateJudgement:
    """Verdict on a candidate. `gain` is of log seconds to the target, `pace` of log seconds of the run; positive is faster."""

    verdict: str
    why: str
    gates: tuple[Gate, ...]
    gain: Comparison | None
    pace: Comparison | None

    @property
    def gain_share(self) -> float | None:
        """Share of the time to the target that is saved; if unknown, of the time of the run."""
        best = self.gain if self.gain is not None else self.pace
        return None if best is None else saved(best.mean)


Runs = Mapping[str, Sequence[Measured]]


def judge(runs: Runs, candidate: str, baseline: str, resume: Gate, among: int = 1) -> GateJudgement:
    """Applies the gates. `runs` has the same seeds in the same order for all names; the whole sweep helps to estimate the noise.

    `resume` is the result of the test of checkpoint and resume, `among` the number of candidates of the sweep.
    """
    ours, theirs = runs[candidate], runs[baseline]
    stable = _stability(ours)
    if not stable.passed or any(run.status != OK for run in theirs):
        why = stable.found if not stable.passed else "the baseline itself has runs that failed"
        return GateJudgement(REJECT if not stable.passed else OPTIONAL, why, (stable, resume), None, None)
    whole = {name: measured for name, measured in runs.items() if all(run.status == OK for run in measured)}
    gain, pace = (speed(whole, candidate, baseline, 2 * among) for speed in (target_gain, _pace))
    loss, bpb = _loss(ours, theirs), _bpb(ours, theirs)
    to_target = _faster_to_target(gain, ours, theirs)
    faster = to_target if to_target.passed else _faster_pace(pace, ours, theirs)
    gates = (to_target, *([faster] if faster is not to_target else []), stable, resume, loss, bpb)
    failed = [gate for gate in (stable, resume, loss, bpb) if not gate.passed]
    slower = gain is not None and gain.high < 0
    if failed:
        return GateJudgement(REJECT, "; ".join(f"{gate.name}: {gate.found}" for gate in failed), gates, gain, pace)
    if faster.passed:
        return GateJudgement(PROMOTE, f"{faster.name}: {faster.found}", gates, gain, pace)
    if slower:
        return GateJudgement(REJECT, f"significantly slower to the target: {show(gain)}", gates, gain, pace)
    return GateJudgement(OPTIONAL, f"nothing lost, but no significant gain: {to_target.found}", gates, gain, pace)


def saved(log_gain: float) -> float:
    """Share of the time that a gain in log seconds saves."""
    return 1 - math.exp(-log_gain)


def show(gain: Comparison) -> str:
    """A gain as text: `saves 4.1 % (1.0 … 7.2 %; each bound at level 0.01, 4 degrees of freedom)`."""
    return (
        f"saves {saved(gain.mean):.1%} ({saved(gain.low):.1%} … {saved(gain.high):.1%}; "
        f"each bound at level {gain.level:.2g}, {gain.freedom} degrees of freedom)"
    )


def target_gain(runs: Runs, candidate: str, baseline: str, among: int) -> Comparison | None:
    """Gain in log seconds to the target; None if a run does not reach it.

    Other candidates of the sweep count for the noise only if all their runs were measured: extrapolations are noisier.
    """

    def counts(name: str, measured: Sequence[Measured]) -> bool:
        own = name in (candidate, baseline)
        return all(run.seconds_to_target is not None and (own or not run.uncertainty) for run in measured)

    there = {name: measured for name, measured in runs.items() if counts(name, measured)}
    if candidate not in there or baseline not in there:
        return None
    found = compare({n: [-math.log(run.seconds_to_target) for run in m] for n, m in there.items()}, candidate, baseline, among)
    pairs = zip(there[candidate], there[baseline], strict=True)
    doubt = math.sqrt(sum(a.uncertainty**2 + b.uncertainty**2 for a, b in pairs)) / len(there[baseline])
    return Comparison(found.differences, found.mean, found.low - doubt, found.high + doubt, found.level, found.freedom)


def _pace(runs: Runs, candidate: str, baseline: str, among: int) -> Comparison:
    return compare({n: [-math.log(run.steady_seconds) for run in m] for n, m in runs.items()}, candidate, baseline, among)


def _faster_to_target(gain: Comparison | None, ours: Sequence[Measured], theirs: Sequence[Measured]) -> Gate:
    name = "faster to the target"
    if gain is None:
        return Gate(name, False, "not every run reaches it, even extrapolated")
    spread = statistics.stdev(math.log(run.seconds_to_target) for run in theirs) * math.sqrt(2 / len(theirs))
    how = "measured" if not any(run.uncertainty for run in (*ours, *theirs)) else "partly extrapolated"
    seeds = ", ".join(f"{saved(d):+.1%}" for d in gain.differences)
    passed = gain.always_positive and gain.low > 0 and gain.mean > spread and saved(gain.mean) >= LEAST_GAIN
    return Gate(name, passed, f"{show(gain)}, {how}; by seed {seeds}; spread of the baseline {saved(spread):.1%}")


def _faster_pace(pace: Comparison, ours: Sequence[Measured], theirs: Sequence[Measured]) -> Gate:
    """Fallback gate: less wall time for the run, without significantly worse losses."""
    enough = pace.always_positive and pace.low > 0 and saved(pace.mean) >= LEAST_PACE_GAIN
    losses = compare({"ours": [run.final_loss for run in ours], "theirs": [run.final_loss for run in theirs]}, "ours", "theirs")
    equal = losses.low <= 0
    found = f"the run {show(pace)}, at least {LEAST_PACE_GAIN:.0%} required; quality {'equal' if equal else 'significantly worse'}"
    return Gate("less wall time at equal quality", enough and equal, found)


def _stability(runs: Sequence[Measured]) -> Gate:
    trouble = []
    for run in runs:
        if run.status != OK:
            trouble.append(f"seed {run.seed} {run.status}")
        elif run.bad_batches:
            trouble.append(f"seed {run.seed} had {run.bad_batches} steps without a finite loss")
        elif run.spike > SPIKE:
            trouble.append(f"seed {run.seed}: the loss rose by {run.spike:.0%}")
    return Gate("stable", not trouble, "; ".join(trouble) or "at every seed")


def _loss(ours: Sequence[Measured], theirs: Sequence[Measured]) -> Gate:
    change = compare({"ours": [math.log(r.final_loss) for r in ours], "theirs": [math.log(r.final_loss) for r in theirs]}, "ours", "theirs")
    worse, low, high = (math.expm1(value) for value in (change.mean, change.low, change.high))
    return Gate("final training loss", worse <= MOST_LOSS, f"{worse:+.2%} ({low:+.2%} … {high:+.2%}), at most {MOST_LOSS:+.0%}")


def _bpb(ours: Sequence[Measured], theirs: Sequence[Measured]) -> Gate:
    name = "validation bits per byte"
    if any(run.min_bpb is None for run in (*ours, *theirs)):
        return Gate(name, True, "not measured")
    change = compare({"ours": [r.min_bpb for r in ours], "theirs": [r.min_bpb for r in theirs]}, "ours", "theirs")
    worse = statistics.median(r.min_bpb for r in ours) - statistics.median(r.min_bpb for r in theirs)
    found = f"{worse:+.4f} between the medians, {change.mean:+.4f} ({change.low:+.4f} … {change.high:+.4f}) by pairs, at most {MOST_BPB:+}"
    return Gate(name, worse <= MOST_BPB, found)
