"""Speedrun lab: runs of base_train that are compared fairly, and decisions by stated rules.

python -m scripts.lab baseline --profile cpu-micro     lock profile, target and seeds, and run the baseline
python -m scripts.lab sweep B                          run or resume template B (A–G, or your own YAML file)
python -m scripts.lab decide B                         judge its best candidate, and enter the decision into dev/LOG.md
python -m scripts.lab miniseries baseline B/NAME       test whether the gain holds across depths
python -m scripts.lab scaling                          train depths to equal FLOPs and fit scaling laws
python -m scripts.lab plateau                          test whether the recorded cycles have stopped improving
python -m scripts.lab report                           write figures, tables and decisions as one page
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
from nanochat.lab.cycle import BASELINE, LOCK_FILE, BaselineOptions, Cycle, begin, cycle_names, exclusive, lab_folder, open_cycle, reopen
from nanochat.lab.decisions import cycle_state, plateau
from nanochat.lab.measurements import lock_threshold, measure, members, variance
from nanochat.lab.profiles import METRICS, check_knobs, load_profile
from nanochat.lab.report import write_report
from nanochat.lab.runner import LabRun, Stopped, add_rows, command, forget_failures, outcome_file, run_all
from nanochat.lab.templates import at_seeds, best_of, experiments, load_template
from scripts.base_train import BaseTrain


@dataclass
class CycleFlags:
    """Choice of the cycle."""

    profile: str = flag("", "cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file; also the name of the cycle unless --cycle is given")
    cycle: str = flag("", "name of the cycle's folder in lab/; empty = the profile's name, or the only cycle")
    same_code: bool = flag(False, "accept changed training code as equal to the baseline's")

    def __post_init__(self) -> None:
        if self.cycle and not all(c.isalnum() or c in "-_." for c in self.cycle):
            raise ValueError(f"cycle is {self.cycle!r}; give letters, digits, - and _")

    @property
    def name(self) -> str:
        """Name of the cycle. Raises `UserError` if it is ambiguous."""
        if self.cycle or self.profile:
            return self.cycle or Path(self.profile).stem
        there = cycle_names()
        if len(there) == 1:
            return there[0]
        raise UserError(f"no cycle given; give --cycle NAME or --profile NAME; cycles are {', '.join(there) or 'none yet'}")


@dataclass
class Baseline:
    """Lock profile, metric, threshold, seeds and code of a cycle, and run its baseline."""

    chosen: CycleFlags = part(CycleFlags)
    seeds: int = flag(0, "number of seeds 1 … N, at least 2; 0 = the profile's", unit="seeds")
    metric: str = flag("", "val/bpb or train/loss; empty = the profile's")
    threshold: float | None = flag(None, "value of the metric to reach; none = the final one of the baseline's slowest seed")
    jobs: int = flag(0, "runs at a time, for the whole cycle; 0 = the profile's", unit="runs")

    def __post_init__(self) -> None:
        if self.seeds < 0 or self.seeds == 1:
            raise ValueError(f"seeds is {self.seeds}; a comparison needs at least two")
        if self.metric not in ("", *METRICS):
            raise ValueError(f"metric is {self.metric!r}; it must be {' or '.join(METRICS)}")
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give at least 1, or 0 for the profile's")
        if self.threshold is not None and not 0 < self.threshold < 100:
            raise ValueError(f"threshold is {self.threshold}; it must be a positive value of the metric")


@dataclass
class Sweep:
    """Run the candidates of a template at every seed, resuming an earlier sweep."""

    template: tuple[str, ...] = rest("A, B, C, D, E, F, G or a YAML file")
    chosen: CycleFlags = part(CycleFlags)
    budget: Literal["template", "tokens", "flops", "time"] = flag("template", "budget that every candidate shares with the baseline")
    only: str = flag("", "single candidate of the template to run; empty = all")
    retry_failed: bool = flag(False, "repeat runs that crashed or diverged; the later row counts")
    dry_run: bool = flag(False, "print the commands and exit")


@dataclass
class Decide:
    """Judge a candidate by all gates, and enter the decision into the log."""

    candidate: tuple[str, ...] = rest("TEMPLATE/NAME, or TEMPLATE for the best of a sweep")
    chosen: CycleFlags = part(CycleFlags)
    log: str = flag("dev/LOG.md", "file the decision is entered into; empty = none")


@dataclass
class Miniseries:
    """Train BASE and CANDIDATE at several depths; the gain must hold at each."""

    names: tuple[str, ...] = rest("BASE (default baseline) and CANDIDATE, experiments of this cycle")
    chosen: CycleFlags = part(CycleFlags)
    depths: str = flag("", "depths, separated by commas; empty = the profile's", unit="layers")


@dataclass
class Scaling:
    """Train several depths to equal FLOPs and fit scaling laws."""

    chosen: CycleFlags = part(CycleFlags)
    depths: str = flag("", "depths, separated by commas; empty = the profile's", unit="layers")
    flops: str = flag("", "budgets, separated by commas; empty = the profile's", unit="FLOPs")


@dataclass
class Plateau:
    """Test whether the recorded cycles have stopped improving."""

    cycles: tuple[str, ...] = rest("names of cycles in order; none = all")


@dataclass
class Report:
    """Write the report of a cycle."""

    chosen: CycleFlags = part(CycleFlags)
    out: str = flag("", "folder of the report; empty = report/ in the cycle's folder")


def baseline(config: Baseline) -> int:
    """`lab baseline`."""
    defaults, profile = _defaults(), None
    if config.chosen.profile:
        profile = _usage(load_profile, config.chosen.profile)
        _usage(check_knobs, profile.flags, defaults)
        flags.parse(BaseTrain, command(profile.flags, 1)[3:])  # raises for values that base_train would not accept
    options = BaselineOptions(config.seeds, config.metric, config.threshold, config.jobs)
    cycle = begin(config.chosen.name, profile, options, config.chosen.same_code, defaults, _say)
    with exclusive(cycle):
        runs = [LabRun(cycle.baseline, seed) for seed in cycle.seeds]
        run_all(cycle, runs, _say, with_rows=False)
        lock_threshold(cycle, runs)
        add_rows(cycle, runs)
        cycle.variance = variance(cycle)
        cycle.save()
    _say(f"target: {cycle.metric} ≤ {cycle.threshold:.4f}, locked in {cycle.folder / LOCK_FILE}")
    for name, found in cycle.variance.items():
        _say(f"  {name}: {found['mean']:.5g} ± {found['deviation']:.2g} between seeds ({found['relative']:.2%})")
    return 0


def sweep(config: Sweep) -> int:
    """`lab sweep TEMPLATE`."""
    name = _one(config.template, "sweep", "a template A–G or a YAML file")
    template = _usage(load_template, name, _defaults())
    cycle = _cycle(config.chosen)
    budget = template.budget if config.budget == "template" else config.budget
    wanted = _usage(experiments, cycle, template, budget, config.only)
    for experiment in wanted:
        flags.parse(BaseTrain, command(experiment.flags, cycle.seeds[0])[3:])
    runs = at_seeds(cycle, wanted)
    if config.dry_run:
        for run in runs:
            if not outcome_file(cycle, run).exists():
                seconds = run.experiment.budget_seconds
                steps = "" if seconds is None else f"  # steps for {seconds} s"
                print(shlex.join(command(run.experiment.flags, run.seed)) + steps)
        return 0
    with exclusive(cycle):
        if config.retry_failed:
            _say(f"{forget_failures(cycle, runs)} failed runs are repeated")
        run_all(cycle, runs, _say)
    names = dict.fromkeys([BASELINE, *(experiment.name for experiment in wanted)])
    print(decisions.table({name: measure(cycle, name, cycle.seeds) for name in names}))
    return 0


def decide(config: Decide) -> int:
    """`lab decide CANDIDATE`."""
    name = _one(config.candidate, "decide", "a candidate, such as B/NAME, or a sweep for its best one")
    cycle = _cycle(config.chosen)
    if "/" not in name and members(cycle, name):
        best = best_of(cycle, name, with_baseline=False)
        if best is None:
            raise UserError(f"no candidate of {name} reached the target; name one: {', '.join(members(cycle, name))}")
        name = best
    with exclusive(cycle):
        decision = decisions.decide(cycle, name, datetime.now(UTC).date())
        decisions.keep(cycle, decision)
        text = decisions.entry(cycle, decision)
        if config.log:
            decisions.write_log(Path(config.log), text)
    print(text, end="")
    if config.log:
        _say(f"entered into {config.log}")
    return 0


def run_miniseries(config: Miniseries) -> int:
    """`lab miniseries [BASE [CANDIDATE]]`."""
    names = config.names or (BASELINE,)
    if len(names) > 2:
        raise UserError(f"a miniseries compares BASE with one CANDIDATE, not {len(names)} experiments")
    cycle = _cycle(config.chosen)
    depths = _numbers(config.depths, "depths", int) or cycle.profile.depths
    with exclusive(cycle):
        targets = _usage(scaling.run_series, cycle, names, depths, _say)
        for depth, target in targets.items():
            _say(f"depth {depth}: target {cycle.metric} ≤ {target:.4f}")
        if len(names) == 2:
            answer = scaling.judge_series(cycle, *names, targets)
            for found in answer["depths"]:
                _say(f"depth {found['depth']}: saves {found['saved']:+.1%} of the time, final loss {found['loss']:+.2%}")
            _say(f"{names[1]} {'holds' if answer['passed'] else 'does not hold'} across depths: {answer['why']}")
    return 0


def run_scaling(config: Scaling) -> int:
    """`lab scaling`."""
    cycle = _cycle(config.chosen)
    depths = _numbers(config.depths, "depths", int) or cycle.profile.scaling_depths
    budgets = _numbers(config.flops, "flops", float) or cycle.profile.scaling_flops
    with exclusive(cycle):
        answer = scaling.run_scaling(cycle, budgets, depths, _say)
    for best in answer["best"]:
        edge = "" if best["inside"] else ", at the edge of the sizes tried"
        size = f"{best['parameters']:,.0f} parameters, {best['tokens']:,.0f} tokens{edge}"
        _say(f"{best['budget']:.2e} FLOPs: best with {size}: {best['value']:.4f}")
    for name, law in answer["laws"].items():
        _say(f"{name} ∝ FLOPs^{law['exponent']:.3f}" + ("" if law["r_squared"] is None else f", R² {law['r_squared']:.4f}"))
    return 0


def run_plateau(config: Plateau) -> int:
    """`lab plateau`."""
    names = config.cycles or cycle_names()
    if not names:
        raise UserError(f"there are no cycles in {lab_folder()}; begin with: python -m scripts.lab baseline --profile cpu-micro")
    _, lines = plateau([cycle_state(open_cycle(name, {})) for name in names])
    print("\n".join(lines))
    return 0


def report(config: Report) -> int:
    """`lab report`."""
    cycle = open_cycle(config.chosen.name, {})
    page = write_report(cycle, Path(config.out) if config.out else cycle.folder / "report")
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
    """Runs a command and returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        print("\nFlags; see python -m scripts.lab COMMAND --help:")
        for name, (config, _) in COMMANDS.items():
            print(f"  {name}: {' '.join('--' + flag.replace('_', '-') for flag in flags.flat_values(config()))}")
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise SystemExit(_refuse(f"unknown command {words[0]!r}; commands are {', '.join(COMMANDS)}"))
    config, run = COMMANDS[words[0]]
    try:
        return run(flags.parse(config, words[1:]))
    except Stopped as stopped:
        _say("stopped; run the same command again to continue")
        return stopped.code


def _cycle(chosen: CycleFlags) -> Cycle:
    """The cycle, opened for more runs. Raises `UserError` before its baseline has run."""
    profile = _usage(load_profile, chosen.profile) if chosen.profile else None
    cycle = reopen(chosen.name, profile, chosen.same_code, _defaults(), _say)
    cycle.require_threshold()
    return cycle


def _defaults() -> dict[str, Any]:
    """The flags of base_train with their defaults."""
    return flags.flat_values(BaseTrain())


def _usage(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function`; a `ValueError` is a usage error: one line, exit code 2."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise SystemExit(_refuse(str(error))) from error


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _one(words: Sequence[str], name: str, what: str) -> str:
    if len(words) != 1:
        raise SystemExit(_refuse(f"{name} takes {what}; {len(words)} given"))
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
