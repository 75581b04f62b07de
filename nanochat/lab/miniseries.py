"""The depth sweep: whether a gain at one depth holds at others, with as many tokens per parameter at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nanochat.common import UserError, read_json, write_json
from nanochat.lab.cycle import BASELINE, Cycle, Experiment
from nanochat.lab.gates import MOST_BPB, MOST_LOSS, Measured, saved
from nanochat.lab.measurements import hashes, measure
from nanochat.lab.outcome import OK, OUTCOME
from nanochat.lab.runner import add_rows, run_all, scaling_parameters
from nanochat.lab.statistics import compare
from nanochat.lab.sweeps import at_budget, at_seeds
from nanochat.lab.targets import slowest_end

SERIES = "miniseries"


def run_series(cycle: Cycle, names: Sequence[str], depths: Sequence[int], say: Callable[[str], None]) -> dict[int, float]:
    """Trains each of `names` (the baseline or candidates of this cycle) at each depth; returns each depth's target.

    The target at a depth is what the slowest seed of the first of `names` ends at.
    """
    changed = [_knobs(cycle, name) for name in names]
    first = {depth: _at_depth(cycle, names[0], depth, *changed[0]) for depth in depths}
    run_all(cycle, at_seeds(cycle, list(first.values())), say, with_rows=False)
    targets = {}
    for depth, experiment in first.items():
        targets[depth] = slowest_end(cycle, at_seeds(cycle, [experiment]))
        add_rows(cycle, at_seeds(cycle, [experiment]), targets[depth])
    others = {
        depth: [
            at_budget(cycle, _at_depth(cycle, name, depth, knobs, budget), budget, first[depth])
            for name, (knobs, budget) in zip(names[1:], changed[1:], strict=True)
        ]
        for depth in depths
    }
    run_all(cycle, at_seeds(cycle, [experiment for found in others.values() for experiment in found]), say, with_rows=False)
    for depth, found in others.items():
        add_rows(cycle, at_seeds(cycle, found), targets[depth])
    return targets


def judge_series(cycle: Cycle, base: str, candidate: str, targets: dict[int, float]) -> dict[str, Any]:
    """Whether the gain holds: at every depth and, over all depths and seeds, beyond doubt; stable and no worse at each.

    Returns the answer with what it rests on, and keeps it in the cycle's folder for `decide` and `plateau`.
    """
    found, trouble = [], []
    pairs: list[tuple[Measured, Measured]] = []
    for depth, target in targets.items():
        theirs, ours = (measure(cycle, _name(name, depth), cycle.seeds, target) for name in (base, candidate))
        if any(run.status != OK or run.bad_batches for run in (*theirs, *ours)):
            trouble.append(f"depth {depth}: a run failed")
            continue
        if any(run.seconds_to_target is None for run in (*theirs, *ours)):
            trouble.append(f"depth {depth}: not every run gets to the target")
            continue
        here = list(zip(ours, theirs, strict=True))
        pairs += here
        gain = sum(math.log(b.seconds_to_target / a.seconds_to_target) for a, b in here) / len(here)
        loss = sum(math.log(a.final_loss / b.final_loss) for a, b in here) / len(here)
        bpb = _difference(here)
        found.append({"depth": depth, "target": target, "saved": saved(gain), "loss": math.expm1(loss), "bpb": bpb})
        if gain <= 0:
            trouble.append(f"depth {depth}: no gain ({saved(gain):+.1%})")
        if math.expm1(loss) > MOST_LOSS or (bpb is not None and bpb > MOST_BPB):
            trouble.append(f"depth {depth}: quality lost (loss {math.expm1(loss):+.2%}, bpb {'–' if bpb is None else f'{bpb:+.4f}'})")
    answer = {"base": base, "candidate": candidate, "depths": found}
    if not trouble:
        values = {"ours": [-math.log(a.seconds_to_target) for a, _ in pairs], "theirs": [-math.log(b.seconds_to_target) for _, b in pairs]}
        over_all = compare(values, "ours", "theirs")
        shown = f"saves {saved(over_all.mean):.1%} ({saved(over_all.low):.1%} … {saved(over_all.high):.1%}) over {len(targets)} depths"
        if over_all.low <= 0:
            trouble.append(f"{shown}, which is not beyond doubt")
        answer |= {"saved": saved(over_all.mean), "low": saved(over_all.low), "high": saved(over_all.high)}
    answer |= {"passed": not trouble, "why": "; ".join(trouble) or shown}
    if base == BASELINE:
        path = cycle.folder / f"{SERIES}.json"
        write_json(path, (read_json(path) if path.exists() else {}) | {hashes(cycle)[candidate]: answer})
    return answer


def _difference(pairs: Sequence[tuple[Measured, Measured]]) -> float | None:
    if any(run.min_bpb is None for pair in pairs for run in pair):
        return None
    return sum(a.min_bpb - b.min_bpb for a, b in pairs) / len(pairs)


def _name(name: str, depth: int) -> str:
    return f"{SERIES}/d{depth}/{name}"


def _knobs(cycle: Cycle, name: str) -> tuple[dict[str, Any], str]:
    """(knobs, budget) of the baseline or of a candidate that has run."""
    if name == BASELINE:
        return {}, "tokens"
    config = hashes(cycle).get(name)
    folders = [] if config is None else sorted((cycle.folder / "runs").glob(f"{config}-s*"))
    if not folders or not (folders[0] / OUTCOME).exists():
        raise UserError(f"{name!r} has not run in cycle {cycle.name}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    outcome = read_json(folders[0] / OUTCOME)
    return outcome["knobs"], outcome["budget"]


def _at_depth(cycle: Cycle, name: str, depth: int, knobs: dict[str, Any], budget: str) -> Experiment:
    """The experiment on the profile at another depth: the width and the tokens grow with it."""
    base = {**cycle.profile.flags, "depth": depth}
    if "num_iterations" in base:
        grown = scaling_parameters(cycle, base) / scaling_parameters(cycle, cycle.profile.flags)
        base["num_iterations"] = max(1, round(base["num_iterations"] * grown))
    return cycle.experiment(_name(name, depth), knobs, base)
