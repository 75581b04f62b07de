"""Sweeps: templates of the runbook as data or from a user's YAML file, and the experiments they make in a cycle."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.common import UserError
from nanochat.lab.curve import read_summary
from nanochat.lab.cycle import BASELINE, Cycle, Experiment
from nanochat.lab.measurements import measure, members, run_records
from nanochat.lab.profiles import HORIZON, check_knobs, read_yaml
from nanochat.lab.run_outcome import OK
from nanochat.lab.runner import LabRun

BUDGETS = ("tokens", "flops", "time")


@dataclass(frozen=True)
class Template:
    """Family of candidates that are compared with the baseline at an equal budget.

    `candidates` maps names to knobs. In place of knobs, `{"best_of": TEMPLATE}` takes those of the best candidate of that sweep,
    and `{"all_of": [candidates]}` joins those of other candidates.
    """

    name: str
    title: str
    candidates: Mapping[str, Mapping[str, Any]]
    budget: str = "tokens"
    fixed: Mapping[str, Any] = field(default_factory=dict)  # knobs of every candidate

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"{self.name}: budget is {self.budget!r}; it must be {', '.join(BUDGETS)}")
        if not self.candidates:
            raise ValueError(f"{self.name}: no candidates; give a grid or candidates")

    def check(self, defaults: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a knob that base_train does not have."""
        for candidate, knobs in self.candidates.items():
            if not {"best_of", "all_of"} & knobs.keys():
                try:
                    check_knobs({**self.fixed, **knobs}, defaults)
                except ValueError as error:
                    raise ValueError(f"{self.name}: candidate {candidate}: {error}") from error


def grid(**axes: tuple[Any, ...]) -> dict[str, dict[str, Any]]:
    """Every combination of the values, named by them: `lr_mult=0.9,wd_mult=1.4`."""
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return {",".join(f"{name}={_show(value)}" for name, value in knobs.items()): knobs for knobs in combinations}


def _show(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "A",
            "theory slice: the best of B, C and D, one by one and together",
            {
                "warmdown": {"best_of": "B"},
                "batch": {"best_of": "C"},
                "rates": {"best_of": "D"},
                "bundle": {"all_of": ["warmdown", "batch", "rates"]},
            },
        ),
        Template("B", "warm-down", grid(warmdown_ratio=(0.2, 0.3, 0.4, 0.5), warmdown_shape=("linear", "cosine"))),
        Template("C", "batch around the predicted one, learning rates coupled", grid(batch_mult=(0.7, 1.0, 1.4))),
        Template("D", "learning rates and weight decay around the nominal ones", grid(lr_mult=(0.9, 1.0, 1.1), wd_mult=(0.7, 1.0, 1.4))),
        Template(
            "E",
            "data and horizon",
            {
                **grid(horizon_mult=(0.8, 1.25)),
                **grid(final_lr_frac=(0.0, 0.1)),
                **grid(horizon_mult=(0.8,), warmdown_ratio=(0.5, 0.8), final_lr_frac=(0.0,)),
            },
        ),
        Template(
            "F",
            "shape at equal FLOPs",
            {**grid(depth_mult=(0.67, 1.5)), **grid(head_dim_mult=(0.5,)), **grid(depth_mult=(1.5,), head_dim_mult=(0.5,))},
            budget="flops",
        ),
        Template("G", "norm and cross-entropy", grid(fused_rmsnorm=(False, True), chunked_ce=(True, False))),
    )
}


def load_template(name: str, defaults: Mapping[str, Any]) -> Template:
    """Loads one of the templates A–G by name, or a YAML file.

    A file has `grid` (knob → values), `candidates` (name → knobs) or both, and may have `name`, `title`, `budget` (tokens, flops or
    time) and `fixed` (knobs of every candidate). Raises `ValueError` if it is invalid, `UserError` if it cannot be read.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"template is {name!r}; it must be one of {', '.join(TEMPLATES)} or a YAML file")
    try:
        template = _from_yaml(Path(name))
        template.check(defaults)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return template


def _from_yaml(path: Path) -> Template:
    text = read_yaml(path)
    known = ("name", "title", "budget", "fixed", "grid", "candidates")
    if unknown := [key for key in text if key not in known]:
        raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(known)}")
    for key in ("fixed", "grid", "candidates"):
        if not isinstance(text.get(key, {}), dict):
            raise ValueError(f"{key} must be a mapping of names")
    axes = {knob: tuple(values) if isinstance(values, list) else (values,) for knob, values in text.get("grid", {}).items()}
    candidates = (grid(**axes) if axes else {}) | text.get("candidates", {})
    name = str(text.get("name", path.stem))
    if wrong := [key for key, knobs in candidates.items() if not isinstance(knobs, dict)]:
        raise ValueError(f"candidate {wrong[0]} must be a mapping of knobs")
    if name in TEMPLATES or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(f"name is {name!r}; give letters, digits, - and _, and not the name of a template A–G")
    return Template(name, str(text.get("title", name)), candidates, str(text.get("budget", "tokens")), text.get("fixed", {}))


def experiments(cycle: Cycle, template: Template, budget: str, only: str = "") -> list[Experiment]:
    """Candidates of the template, without those equal to the baseline.

    `budget` is what they share with it: tokens, flops or time. Raises `ValueError` for an impossible candidate, `UserError` if one
    takes the best of a sweep that has not been run.
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


def at_seeds(cycle: Cycle, wanted: list[Experiment]) -> list[LabRun]:
    """One run per experiment and seed, seed after seed, so that changes of the machine's pace affect all alike."""
    return [LabRun(experiment, seed) for seed in cycle.seeds for experiment in wanted]


def at_budget(cycle: Cycle, experiment: Experiment, budget: str, baseline: Experiment) -> Experiment:
    """The experiment with the same budget as `baseline`: tokens (unchanged), flops or time.

    Raises `UserError` if the baseline has not run.
    """
    if budget == "tokens":
        return experiment
    rows = cycle.results.newest()
    keys = [(cycle.hash(baseline), seed) for seed in cycle.seeds]
    spent = [read_summary(run_records(cycle, rows[key])) for key in keys if key in rows and rows[key]["status"] == OK]
    if not spent:
        raise UserError(f"a budget of {budget} is that of {baseline.name}, which has no finished run in {cycle.results.path}")
    flags = {name: value for name, value in experiment.flags.items() if name not in HORIZON}
    if budget == "flops":
        flags["target_flops"] = statistics.median(summary.flops for summary in spent)
        return dataclasses.replace(experiment, flags=flags, budget=budget)
    seconds = statistics.median(summary.steady_seconds for summary in spent)
    return dataclasses.replace(experiment, flags=flags, budget=budget, budget_seconds=round(seconds, 3))


def best_of(cycle: Cycle, sweep: str, with_baseline: bool = True) -> str | None:
    """Candidate of a sweep with the least mean time to the target over all seeds; None if none reached it.

    `with_baseline` also gives None if the baseline was fastest.
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
    """Knobs of each candidate, with `best_of` and `all_of` resolved."""
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
