"""From a template to the experiments of a cycle, at equal budgets."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from nanochat.common import UserError
from nanochat.lab.curve import read_figures
from nanochat.lab.cycle import BASELINE, Cycle, Experiment
from nanochat.lab.knobs import HORIZON
from nanochat.lab.measurements import measure, members, run_records
from nanochat.lab.outcome import OK
from nanochat.lab.runner import Run
from nanochat.lab.templates import TEMPLATES, Template


def experiments(cycle: Cycle, template: Template, budget: str, only: str = "") -> list[Experiment]:
    """The candidates of the template, without those that are the baseline itself.

    `budget` is what they have in common with it: tokens, flops or time. Raises `ValueError` for one that cannot be had, `UserError`
    where a candidate takes the best of a sweep that has not been run.
    """
    knobs = _resolved(cycle, template)
    if only and only not in knobs:
        raise ValueError(f"only is {only!r}; {template.name} has {', '.join(knobs)}")
    same = cycle.hash(cycle.baseline)
    found = []
    for name, changed in knobs.items():
        experiment = cycle.experiment(f"{template.name}/{name}", {**template.fixed, **changed})
        if cycle.hash(experiment) != same:
            experiment = at_budget(cycle, experiment, budget, cycle.baseline)
        if cycle.hash(experiment) != same and only in ("", name):
            found.append(experiment)
    return found


def at_seeds(cycle: Cycle, wanted: list[Experiment]) -> list[Run]:
    """One run for each experiment and seed, seed after seed: a change of the machine's pace meets all alike."""
    return [Run(experiment, seed) for seed in cycle.seeds for experiment in wanted]


def at_budget(cycle: Cycle, experiment: Experiment, budget: str, baseline: Experiment) -> Experiment:
    """The experiment with the horizon that spends what `baseline` has spent: tokens (as it is), flops or time.

    Raises `UserError` where the baseline has not run.
    """
    if budget == "tokens":
        return experiment
    rows = cycle.results.newest()
    keys = [(cycle.hash(baseline), seed) for seed in cycle.seeds]
    spent = [read_figures(run_records(cycle, rows[key])) for key in keys if key in rows and rows[key]["status"] == OK]
    if not spent:
        raise UserError(f"a budget of {budget} is that of {baseline.name}, which has no finished run in {cycle.results.path}")
    flags = {name: value for name, value in experiment.flags.items() if name not in HORIZON}
    if budget == "flops":
        flags["target_flops"] = statistics.median(figures.flops for figures in spent)
        return dataclasses.replace(experiment, flags=flags, budget=budget)
    seconds = statistics.median(figures.steady_seconds for figures in spent)
    return dataclasses.replace(experiment, flags=flags, budget=budget, budget_seconds=round(seconds, 3))


def best_of(cycle: Cycle, sweep: str, with_baseline: bool = True) -> str | None:
    """The candidate of a sweep that got to the target soonest in the mean of all seeds; None where none did.

    `with_baseline` gives None as well where the baseline was sooner than all.
    """
    mean = {}
    for name in [*([BASELINE] if with_baseline else []), *members(cycle, sweep)]:
        runs = measure(cycle, name, cycle.seeds)
        if all(run.status == OK and run.seconds_to_target is not None for run in runs):
            mean[name] = statistics.geometric_mean([run.seconds_to_target for run in runs])
    if not mean:
        return None
    best = min(mean, key=lambda name: mean[name])
    return None if best == BASELINE else best


def _resolved(cycle: Cycle, template: Template) -> dict[str, dict[str, Any]]:
    """The knobs of each candidate, with `best_of` and `all_of` worked out."""
    knobs: dict[str, dict[str, Any]] = {}
    for name, value in template.candidates.items():
        if "best_of" in value:
            knobs[name] = _knobs_of_best(cycle, template.name, value["best_of"])
        elif "all_of" in value:
            knobs[name] = {k: v for part in value["all_of"] for k, v in knobs[part].items()}
        else:
            knobs[name] = dict(value)
    return knobs


def _knobs_of_best(cycle: Cycle, template: str, sweep: str) -> dict[str, Any]:
    if not members(cycle, sweep):
        raise UserError(f"template {template} takes the best of {sweep}, which cycle {cycle.name} has not swept; sweep {sweep} first")
    best = best_of(cycle, sweep)
    return {} if best is None else dict(TEMPLATES[sweep].candidates[best.partition("/")[2]])
