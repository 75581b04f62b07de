"""Runs across depths: at equal FLOPs with fits of scaling laws, and the miniseries that tests a gain at several depths.

Scaling laws: at one budget the metric is fitted by a parabola in the logarithm of the parameters; its lowest point is the best size
(approach 2 of arXiv 2203.15556). Best size, tokens and metric are then fitted by power laws of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanochat.common import UserError, read_json, write_json
from nanochat.lab.curve import r_squared, read_curve, read_summary
from nanochat.lab.cycle import BASELINE, Cycle, Experiment, Say
from nanochat.lab.gates import MOST_BPB, MOST_LOSS, Measured, saved
from nanochat.lab.measurements import hashes, measure, slowest_end
from nanochat.lab.profiles import HORIZON
from nanochat.lab.run_outcome import OK, OUTCOME, records
from nanochat.lab.runner import LabRun, add_rows, run_all, scaling_parameters
from nanochat.lab.statistics import compare
from nanochat.lab.templates import at_budget, at_seeds

SCALING = "scaling"
SERIES = "miniseries"


def run_scaling(cycle: Cycle, budgets: Sequence[float], depths: Sequence[int], say: Say) -> dict[str, Any]:
    """Trains every depth to every budget, at the first seed, and fits scaling laws; saves and returns the answer."""
    runs = {}
    for budget in budgets:
        for depth in depths:
            flags = {name: value for name, value in cycle.profile.flags.items() if name not in HORIZON}
            flags |= {"depth": depth, "target_flops": budget}
            runs[budget, depth] = LabRun(Experiment(f"{SCALING}/{budget:.3g}/d{depth}", flags), cycle.seeds[0])
    run_all(cycle, list(runs.values()), say)
    points = []
    for (budget, depth), run in runs.items():
        folder = cycle.run_folder(run.experiment, run.seed)
        outcome, logged = read_json(folder / OUTCOME), records(folder)
        summary = read_summary(logged) if outcome["status"] == OK else None
        values = read_curve(logged, cycle.metric).values
        if summary is None or not len(values):
            say(f"{run}: {outcome['status']}, left out of the fits")
            continue
        point = {"budget": budget, "depth": depth, "parameters": outcome["scaling_parameters"], "tokens": summary.tokens}
        points.append(point | {"value": float(values[-1])})
    answer = {"metric": cycle.metric, "points": points, **fit_points(points)}
    write_json(cycle.folder / f"{SCALING}.json", answer)
    return answer


def fit_points(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Best size of each budget and the power laws through them. Raises `UserError` if there are too few points.

    A budget's best size is `inside` if the parabola has its lowest point within the trained sizes.
    """
    best = []
    for budget in sorted({point["budget"] for point in points}):
        here = [point for point in points if point["budget"] == budget]
        if len(here) < 3:
            continue
        n, y = np.log([p["parameters"] for p in here]), np.array([p["value"] for p in here])
        parabola = np.polyfit(n, y, 2)
        inside = parabola[0] > 0 and n.min() < -parabola[1] / (2 * parabola[0]) < n.max()
        lowest = float(-parabola[1] / (2 * parabola[0])) if inside else float(n[y.argmin()])
        tokens = math.exp(float(np.interp(lowest, *zip(*sorted(zip(n, np.log([p["tokens"] for p in here]), strict=True)), strict=True))))
        value = float(np.polyval(parabola, lowest)) if inside else float(y.min())
        fitted = r_squared(y, np.polyval(parabola, n)) if len(here) > 3 else None
        best.append(
            {
                "budget": budget,
                "parameters": math.exp(lowest),
                "tokens": tokens,
                "value": value,
                "inside": bool(inside),
                "r_squared": fitted,
                "parabola": [float(c) for c in parabola],
            }
        )
    if not best:
        raise UserError("scaling laws need at least three sizes at one budget; fewer runs have succeeded")
    names = ("parameters", "tokens", "value")
    laws = {name: power_law([b["budget"] for b in best], [b[name] for b in best]) for name in names} if len(best) > 1 else {}
    return {"best": best, "laws": laws}


def power_law(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    """Least-squares fit of y = scale · x^exponent in the logarithms; R² for three points or more, as any two lie on a line."""
    log_x, log_y = np.log(x), np.log(y)
    exponent, offset = np.polyfit(log_x, log_y, 1)
    fit = r_squared(log_y, exponent * log_x + offset) if len(x) > 2 else None
    return {"exponent": float(exponent), "scale": float(math.exp(offset)), "r_squared": fit}


def run_series(cycle: Cycle, names: Sequence[str], depths: Sequence[int], say: Say) -> dict[int, float]:
    """Trains each of `names` (the baseline or candidates of this cycle) at each depth; returns each depth's target.

    The target at a depth is the final metric of the slowest seed of the first of `names`.
    """
    changed = [_knobs(cycle, name) for name in names]
    first = {depth: _at_depth(cycle, names[0], depth, changed[0][0]) for depth in depths}
    run_all(cycle, at_seeds(cycle, list(first.values())), say, with_rows=False)
    targets = {}
    for depth, experiment in first.items():
        targets[depth] = slowest_end(cycle, at_seeds(cycle, [experiment]))
        add_rows(cycle, at_seeds(cycle, [experiment]), targets[depth])
    others = {
        depth: [
            at_budget(cycle, _at_depth(cycle, name, depth, knobs), budget, first[depth])
            for name, (knobs, budget) in zip(names[1:], changed[1:], strict=True)
        ]
        for depth in depths
    }
    run_all(cycle, at_seeds(cycle, [experiment for found in others.values() for experiment in found]), say, with_rows=False)
    for depth, found in others.items():
        add_rows(cycle, at_seeds(cycle, found), targets[depth])
    return targets


def judge_series(cycle: Cycle, base: str, candidate: str, targets: dict[int, float]) -> dict[str, Any]:
    """Judges whether a gain holds: positive at every depth, significant over all, stable and without loss of quality.

    Returns the answer with its figures, and saves it in the cycle's folder for `decide` and `plateau`.
    """
    found, trouble = [], []
    pairs: list[tuple[Measured, Measured]] = []
    for depth, target in targets.items():
        theirs, ours = (measure(cycle, _name(name, depth), cycle.seeds, target) for name in (base, candidate))
        if any(run.status != OK or run.bad_batches for run in (*theirs, *ours)):
            trouble.append(f"depth {depth}: a run failed")
            continue
        if any(run.seconds_to_target is None for run in (*theirs, *ours)):
            trouble.append(f"depth {depth}: not every run reaches the target")
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
            trouble.append(f"{shown}, which is not significant")
        answer |= {"saved": saved(over_all.mean), "low": saved(over_all.low), "high": saved(over_all.high)}
    answer |= {"passed": not trouble, "why": "; ".join(trouble) or shown}
    if base == BASELINE:
        write_json(cycle.folder / f"{SERIES}.json", cycle.saved(SERIES) | {hashes(cycle)[candidate]: answer})
    return answer


def _difference(pairs: Sequence[tuple[Measured, Measured]]) -> float | None:
    if any(run.min_bpb is None for pair in pairs for run in pair):
        return None
    return sum(a.min_bpb - b.min_bpb for a, b in pairs) / len(pairs)


def _name(name: str, depth: int) -> str:
    return f"{SERIES}/d{depth}/{name}"


def _knobs(cycle: Cycle, name: str) -> tuple[dict[str, Any], str]:
    """(knobs, budget) of the baseline or of a finished candidate."""
    if name == BASELINE:
        return {}, "tokens"
    config = hashes(cycle).get(name)
    folders = [] if config is None else sorted((cycle.folder / "runs").glob(f"{config}-s*"))
    if not folders or not (folders[0] / OUTCOME).exists():
        raise UserError(f"{name!r} has not run in cycle {cycle.name}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    outcome = read_json(folders[0] / OUTCOME)
    return outcome["knobs"], outcome["budget"]


def _at_depth(cycle: Cycle, name: str, depth: int, knobs: dict[str, Any]) -> Experiment:
    """The experiment on the profile at another depth; width and tokens grow with it."""
    base = {**cycle.profile.flags, "depth": depth}
    if "num_iterations" in base:
        grown = scaling_parameters(cycle, base) / scaling_parameters(cycle, cycle.profile.flags)
        base["num_iterations"] = max(1, round(base["num_iterations"] * grown))
    return cycle.experiment(_name(name, depth), knobs, base)
