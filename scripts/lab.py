"""The speedrun lab: experiments that decide something.

python -m scripts.lab baseline --profile cpu-micro     locks profile, target and seeds, and runs the baseline
python -m scripts.lab sweep B                          runs template B (A–G, or your own YAML file); resumes where it was
python -m scripts.lab decide B                         judges its best candidate, and writes that into dev/LOG.md
python -m scripts.lab miniseries baseline B/NAME       whether the gain holds across depths
python -m scripts.lab scaling                          depths at equal FLOPs, with fits
python -m scripts.lab plateau                          whether the recorded cycles have stopped improving
python -m scripts.lab report                           figures, tables and decisions as one page
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nanochat import flags
from nanochat.common import UserError
from nanochat.flags import flag, part, rest
from nanochat.lab import decisions, scaling
from nanochat.lab.cycle import BASELINE, LOCK_FILE, Asked, Cycle, alone, begin, cycle_names, lab_folder, open_cycle, reopen
from nanochat.lab.decisions import look, plateau
from nanochat.lab.measurements import lock_threshold, measure, members, variance
from nanochat.lab.profiles import check_knobs, load_profile
from nanochat.lab.report import write_report
from nanochat.lab.runner import Run, Stopped, add_rows, command, forget_failures, outcome_file, run_all
from nanochat.lab.templates import at_seeds, best_of, experiments, load_template
from scripts.base_train import BaseTrain


@dataclass
class Where:
    """Which cycle."""

    profile: str = flag("", "cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file; names the cycle too where --cycle does not")
    cycle: str = flag("", "name of the cycle's folder under lab/; empty = the profile's name, or the only cycle there is")
    same_code: bool = flag(False, "take the training code for the baseline's although it has changed since")

    def __post_init__(self) -> None:
        if self.cycle and not all(c.isalnum() or c in "-_." for c in self.cycle):
            raise ValueError(f"cycle is {self.cycle!r}; give letters, digits, - and _")

    @property
    def name(self) -> str:
        """Of the cycle. Raises `UserError` where nothing says it."""
        if self.cycle or self.profile:
            return self.cycle or Path(self.profile).stem
        there = cycle_names()
        if len(there) == 1:
            return there[0]
        raise UserError(f"which cycle? Say --cycle NAME or --profile NAME; there are {', '.join(there) or 'none yet'}")


@dataclass
class Baseline:
    """Lock profile, metric, threshold, seeds and code of a cycle, and run its baseline."""

    where: Where = part(Where)
    seeds: int = flag(0, "seeds 1 … N, at least 2; 0 = the profile's", unit="seeds")
    metric: str = flag("", "val/bpb or train/loss; empty = the profile's")
    threshold: float | None = flag(None, "value of the metric to get to; none = what the slowest seed of the baseline ends at")
    jobs: int = flag(0, "runs at a time, for the whole cycle; 0 = the profile's", unit="runs")

    def __post_init__(self) -> None:
        if self.seeds < 0 or self.seeds == 1:
            raise ValueError(f"seeds is {self.seeds}; a comparison takes two at least")
        if self.metric not in ("", "val/bpb", "train/loss"):
            raise ValueError(f"metric is {self.metric!r}; it must be val/bpb or train/loss")
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give at least 1, or 0 for the profile's")
        if self.threshold is not None and not 0 < self.threshold < 100:
            raise ValueError(f"threshold is {self.threshold}; it must be a positive value of the metric")


@dataclass
class Sweep:
    """Run the candidates of a template at every seed, resuming where an earlier sweep stopped."""

    template: tuple[str, ...] = rest("A, B, C, D, E, F, G or a YAML file")
    where: Where = part(Where)
    budget: Literal["template", "tokens", "flops", "time"] = flag("template", "what every candidate has in common with the baseline")
    only: str = flag("", "one candidate of the template; empty = all")
    retry_failed: bool = flag(False, "run again what crashed or diverged; the later row counts")
    dry_run: bool = flag(False, "print the commands, one per line, and run nothing")


@dataclass
class Decide:
    """Judge a candidate by all gates, and write the decision into the log."""

    candidate: tuple[str, ...] = rest("TEMPLATE/NAME, or TEMPLATE for the best of a sweep")
    where: Where = part(Where)
    log: str = flag("dev/LOG.md", "where the decision is entered; empty = nowhere")


@dataclass
class Miniseries:
    """Train BASE, and CANDIDATE beside it, at several depths; the gain must hold at each."""

    names: tuple[str, ...] = rest("BASE (default baseline) and CANDIDATE, experiments of this cycle")
    where: Where = part(Where)
    depths: str = flag("", "separated by commas; empty = the profile's", unit="layers")


@dataclass
class Scaling:
    """Train several depths to equal FLOPs and fit scaling laws."""

    where: Where = part(Where)
    depths: str = flag("", "separated by commas; empty = the profile's", unit="layers")
    flops: str = flag("", "budgets, separated by commas; empty = the profile's", unit="FLOPs")


@dataclass
class Plateau:
    """Say whether the recorded cycles have stopped improving."""

    cycles: tuple[str, ...] = rest("names of cycles in their order; none = all")


@dataclass
class Report:
    """Write the page about a cycle."""

    where: Where = part(Where)
    out: str = flag("", "folder of the page; empty = report/ in the cycle's folder")


def baseline(recipe: Baseline) -> int:
    """`lab baseline`."""
    defaults, profile = _defaults(), None
    if recipe.where.profile:
        profile = _usage(load_profile, recipe.where.profile)
        _usage(check_knobs, profile.flags, defaults)
        flags.parse(BaseTrain, command(profile.flags, 1)[3:])  # refuses values that base_train would refuse
    asked = Asked(recipe.seeds, recipe.metric, recipe.threshold, recipe.jobs)
    cycle = begin(recipe.where.name, profile, asked, recipe.where.same_code, defaults, _say)
    with alone(cycle):
        runs = [Run(cycle.baseline, seed) for seed in cycle.seeds]
        run_all(cycle, runs, _say, with_rows=False)
        lock_threshold(cycle, runs)
        add_rows(cycle, runs)
        cycle.variance = variance(cycle)
        cycle.save()
    _say(f"target: {cycle.metric} ≤ {cycle.threshold:.4f}, locked in {cycle.folder / LOCK_FILE}")
    for name, found in cycle.variance.items():
        _say(f"  {name}: {found['mean']:.5g} ± {found['deviation']:.2g} between seeds ({found['relative']:.2%})")
    return 0


def sweep(recipe: Sweep) -> int:
    """`lab sweep TEMPLATE`."""
    name = _one(recipe.template, "sweep", "a template A–G or a YAML file")
    defaults = _defaults()
    template = _usage(load_template, name, defaults)
    cycle = _cycle(recipe.where, defaults)
    cycle.require_threshold()
    budget = template.budget if recipe.budget == "template" else recipe.budget
    wanted = _usage(experiments, cycle, template, budget, recipe.only)
    for experiment in wanted:
        flags.parse(BaseTrain, command(experiment.flags, cycle.seeds[0])[3:])
    runs = at_seeds(cycle, wanted)
    if recipe.dry_run:
        for run in runs:
            if not outcome_file(cycle, run).exists():
                seconds = run.experiment.budget_seconds
                steps = "" if seconds is None else f"  # as many steps as take {seconds} s"
                print(shlex.join(command(run.experiment.flags, run.seed)) + steps)
        return 0
    with alone(cycle):
        if recipe.retry_failed:
            _say(f"{forget_failures(cycle, runs)} failed runs are run again")
        run_all(cycle, runs, _say)
    names = [experiment.name for experiment in wanted]
    print(decisions.table({name: measure(cycle, name, cycle.seeds) for name in (BASELINE, *dict.fromkeys(names))}))
    return 0


def decide(recipe: Decide) -> int:
    """`lab decide CANDIDATE`."""
    name = _one(recipe.candidate, "decide", "a candidate, such as B/NAME, or a sweep for its best one")
    cycle = _cycle(recipe.where, _defaults())
    cycle.require_threshold()
    if "/" not in name and members(cycle, name):
        best = best_of(cycle, name, with_baseline=False)
        if best is None:
            raise UserError(f"no candidate of {name} got to the target; name one: {', '.join(members(cycle, name))}")
        name = best
    with alone(cycle):
        decision = decisions.decide(cycle, name, datetime.now(UTC).date())
        decisions.keep(cycle, decision)
        text = decisions.entry(cycle, decision)
        if recipe.log:
            decisions.write_log(Path(recipe.log), text)
    print(text, end="")
    if recipe.log:
        _say(f"entered into {recipe.log}")
    return 0


def run_miniseries(recipe: Miniseries) -> int:
    """`lab miniseries [BASE [CANDIDATE]]`."""
    names = recipe.names or (BASELINE,)
    if len(names) > 2:
        raise UserError(f"a miniseries compares BASE with one CANDIDATE, not {len(names)} experiments")
    cycle = _cycle(recipe.where, _defaults())
    cycle.require_threshold()
    depths = _numbers(recipe.depths, "depths", int) or cycle.profile.depths
    with alone(cycle):
        targets = _usage(scaling.run_series, cycle, names, depths, _say)
        for depth, target in targets.items():
            _say(f"depth {depth}: target {cycle.metric} ≤ {target:.4f}")
        if len(names) == 2:
            answer = scaling.judge_series(cycle, *names, targets)
            for found in answer["depths"]:
                _say(f"depth {found['depth']}: saves {found['saved']:+.1%} of the time, final loss {found['loss']:+.2%}")
            _say(f"{names[1]} {'holds' if answer['passed'] else 'does not hold'} across depths: {answer['why']}")
    return 0


def run_scaling(recipe: Scaling) -> int:
    """`lab scaling`."""
    cycle = _cycle(recipe.where, _defaults())
    cycle.require_threshold()
    depths = _numbers(recipe.depths, "depths", int) or cycle.profile.scaling_depths
    budgets = _numbers(recipe.flops, "flops", float) or cycle.profile.scaling_flops
    with alone(cycle):
        answer = scaling.run_scaling(cycle, budgets, depths, _say)
    for best in answer["best"]:
        edge = "" if best["inside"] else ", at the edge of the sizes tried"
        size = f"{best['parameters']:,.0f} parameters, {best['tokens']:,.0f} tokens{edge}"
        _say(f"{best['budget']:.2e} FLOPs: best with {size}: {best['value']:.4f}")
    for name, law in answer["laws"].items():
        _say(f"{name} ∝ FLOPs^{law['exponent']:.3f}" + ("" if law["r_squared"] is None else f", R² {law['r_squared']:.4f}"))
    return 0


def run_plateau(recipe: Plateau) -> int:
    """`lab plateau`."""
    names = recipe.cycles or cycle_names()
    if not names:
        raise UserError(f"there are no cycles in {lab_folder()}; begin with: python -m scripts.lab baseline --profile cpu-micro")
    _, lines = plateau([look(open_cycle(name, {})) for name in names])
    print("\n".join(lines))
    return 0


def report(recipe: Report) -> int:
    """`lab report`."""
    cycle = open_cycle(recipe.where.name, {})
    page = write_report(cycle, Path(recipe.out) if recipe.out else cycle.folder / "report")
    _say(f"written: {page}")
    return 0


COMMANDS: Mapping[str, tuple[type, Callable[[Any], int]]] = {
    "baseline": (Baseline, baseline),
    "sweep": (Sweep, sweep),
    "decide": (Decide, decide),
    "miniseries": (Miniseries, run_miniseries),
    "scaling": (Scaling, run_scaling),
    "plateau": (Plateau, run_plateau),
    "report": (Report, report),
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command, and returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        print("\nFlags; python -m scripts.lab COMMAND --help explains them:")
        for name, (recipe, _) in COMMANDS.items():
            print(f"  {name}: {' '.join('--' + flag.replace('_', '-') for flag in flags.flat_values(recipe()))}")
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise SystemExit(_refuse(f"unknown command {words[0]!r}; commands are {', '.join(COMMANDS)}"))
    recipe, run = COMMANDS[words[0]]
    try:
        return run(flags.parse(recipe, words[1:]))
    except Stopped as stopped:
        _say("stopped; run the same command again to continue")
        return stopped.code


def _cycle(where: Where, defaults: Mapping[str, Any]) -> Cycle:
    """The cycle, on what its baseline ran on."""
    profile = _usage(load_profile, where.profile) if where.profile else None
    return reopen(where.name, profile, where.same_code, defaults, _say)


def _defaults() -> dict[str, Any]:
    """The flags of base_train with their defaults."""
    return flags.flat_values(BaseTrain())


def _usage(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function`; a `ValueError` is a mistake of usage: one line, exit code 2."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise SystemExit(_refuse(str(error))) from error


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _one(words: Sequence[str], name: str, what: str) -> str:
    if len(words) != 1:
        raise SystemExit(_refuse(f"{name} takes {what}; {len(words)} are given"))
    return words[0]


def _numbers(text: str, name: str, kind: type) -> tuple[Any, ...]:
    try:
        values = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        values = (0,)
    if any(not 0 < value < 1e30 for value in values):
        raise SystemExit(_refuse(f"{name} is {text!r}; give positive numbers separated by commas"))
    return values


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    flags.run(main)
