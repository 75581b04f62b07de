"""Scaling laws: depths trained to equal FLOPs, the best size of each budget, and how size, tokens and loss go with FLOPs.

At one budget the metric is fitted by a parabola in the logarithm of the parameters; its lowest point is the best size (approach 2 of
arXiv 2203.15556). Best size, tokens and metric are then fitted by power laws of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanochat.common import UserError, read_json, write_json
from nanochat.lab.curve import read_curve, read_figures
from nanochat.lab.cycle import Cycle, Experiment
from nanochat.lab.knobs import HORIZON
from nanochat.lab.outcome import OK, OUTCOME, records
from nanochat.lab.runner import Run, run_all
from nanochat.lab.time_to_target import r_squared

SCALING = "scaling"


def run_scaling(cycle: Cycle, budgets: Sequence[float], depths: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Trains every depth to every budget, at the first seed, and fits; keeps the answer in the cycle's folder and returns it."""
    runs = {}
    for budget in budgets:
        for depth in depths:
            flags = {name: value for name, value in cycle.profile.flags.items() if name not in HORIZON}
            flags |= {"depth": depth, "target_flops": budget}
            runs[budget, depth] = Run(Experiment(f"{SCALING}/{budget:.3g}/d{depth}", flags), cycle.seeds[0])
    run_all(cycle, list(runs.values()), say)
    points = []
    for (budget, depth), run in runs.items():
        folder = cycle.run_folder(run.experiment, run.seed)
        outcome, logged = read_json(folder / OUTCOME), records(folder)
        figures = read_figures(logged) if outcome["status"] == OK else None
        values = read_curve(logged, cycle.metric).values
        if figures is None or not len(values):
            say(f"{run}: {outcome['status']}, left out of the fits")
            continue
        points.append(
            {
                "budget": budget,
                "depth": depth,
                "parameters": outcome["scaling_parameters"],
                "tokens": figures.tokens,
                "value": float(values[-1]),
            }
        )
    answer = {"metric": cycle.metric, "points": points, **fit_points(points)}
    write_json(cycle.folder / f"{SCALING}.json", answer)
    return answer


def fit_points(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best size of each budget and the power laws through them. Raises `UserError` where there are too few points.

    A budget's best size is `inside` where the parabola has its lowest point within the sizes that were trained.
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
        raise UserError("scaling laws take three sizes at one budget at least; fewer runs than that have ended well")
    names = ("parameters", "tokens", "value")
    laws = {name: power_law([b["budget"] for b in best], [b[name] for b in best]) for name in names} if len(best) > 1 else {}
    return {"best": best, "laws": laws}


def power_law(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    """y = scale · x^exponent by least squares of the logarithms; R² from three points on, as any two lie on a line."""
    log_x, log_y = np.log(x), np.log(y)
    exponent, offset = np.polyfit(log_x, log_y, 1)
    fit = r_squared(log_y, exponent * log_x + offset) if len(x) > 2 else None
    return {"exponent": float(exponent), "scale": float(math.exp(offset)), "r_squared": fit}
