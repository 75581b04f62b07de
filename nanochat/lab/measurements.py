"""What the runs of a cycle have shown, read from results.csv and the runs' metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from nanochat.common import UserError, read_json
from nanochat.lab.curve import extrapolated, measured, read_curve, read_figures
from nanochat.lab.cycle import BASELINE, Cycle
from nanochat.lab.gates import Measured
from nanochat.lab.results import Row, key
from nanochat.lab.run_outcome import OK, OUTCOME, records
from nanochat.lab.runner import Run, outcome_file

_NORMAL_90 = 1.645  # half the width of a normal's 90 % interval, in standard deviations
_DIGITS = 4


def hashes(cycle: Cycle) -> dict[str, str]:
    """Experiment → config hash of its newest row, in the order in which they first were run."""
    found: dict[str, str] = {}
    for row in cycle.results.rows():
        found[row["experiment_name"]] = row["config_hash"]
    return found


def measure(cycle: Cycle, experiment: str, seeds: Sequence[int], threshold: float | None = None) -> list[Measured]:
    """The runs of an experiment at these seeds. Raises `UserError` where one is missing.

    `threshold` is another target than the cycle's.
    """
    config = hashes(cycle).get(experiment)
    if config is None:
        raise UserError(f"there is no {experiment!r} in {cycle.results.path}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    rows = cycle.results.newest()
    if missing := [str(seed) for seed in seeds if (config, seed) not in rows]:
        raise UserError(f"{experiment} has no row for seed {', '.join(missing)} in {cycle.results.path}; run its sweep to the end")
    target = cycle.require_threshold() if threshold is None else threshold
    return [_measured(cycle, rows[config, seed], target) for seed in seeds]


def run_records(cycle: Cycle, row: Row) -> list[dict[str, Any]]:
    """The metrics of the run of a row. Raises `UserError` where they are gone."""
    config, seed = key(row)
    folder = cycle.folder / "runs" / f"{config}-s{seed}"
    if not (folder / OUTCOME).exists():
        raise UserError(
            f"the metrics of {row['experiment_name']} seed {seed} are not in {folder} any more; bring them back or run it again"
        )
    return records(folder)


def members(cycle: Cycle, sweep: str) -> list[str]:
    """The experiments of a sweep that have rows."""
    return [name for name in hashes(cycle) if name.startswith(f"{sweep}/")]


def variance(cycle: Cycle) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and their ratio, over the baseline's seeds, of what is decided by."""
    runs = measure(cycle, BASELINE, cycle.seeds)
    values = {
        "seconds_to_target": [run.seconds_to_target for run in runs],
        "seconds_of_run": [run.steady_seconds for run in runs],
        "final_train_loss": [run.final_loss for run in runs],
        "min_val_bpb": [run.min_bpb for run in runs],
    }
    there = {name: found for name, found in values.items() if None not in found and len(found) > 1}
    return {
        name: {
            "mean": statistics.fmean(found),
            "deviation": statistics.stdev(found),
            "relative": statistics.stdev(found) / statistics.fmean(found),
        }
        for name, found in there.items()
    }


def _measured(cycle: Cycle, row: Row, target: float) -> Measured:
    config, seed = key(row)
    if row["status"] != OK:
        return Measured(seed, row["status"], None, 0.0, math.nan, math.nan, None)
    logged = run_records(cycle, row)
    figures = read_figures(logged)
    assert figures is not None, "a run that is ok has figures"
    curve = read_curve(logged, cycle.metric)
    tokens, uncertainty = measured(curve, target), 0.0
    if tokens is None and (guess := extrapolated(curve, target)) is not None:
        tokens = guess.tokens
        uncertainty = math.log(guess.high / guess.low) / (2 * _NORMAL_90)
    outcome = read_json(cycle.folder / "runs" / f"{config}-s{seed}" / OUTCOME)
    return Measured(
        seed,
        row["status"],
        None if tokens is None else tokens / figures.tok_per_sec,
        uncertainty,
        figures.steady_seconds,
        figures.final_loss,
        figures.min_bpb,
        outcome["bad_batches"],
        figures.spike,
    )


def lock_threshold(cycle: Cycle, runs: Sequence[Run]) -> None:
    """Sets the threshold of a cycle that has none to `slowest_end` of the baseline's runs, rounded up, and writes it down.

    Raises `UserError` where a run of the baseline has failed: there is nothing to compare with then.
    """
    for run in runs:
        outcome = read_json(outcome_file(cycle, run))
        if outcome["status"] != OK:
            folder = outcome_file(cycle, run).parent
            raise UserError(
                f"{run} {outcome['status']} ({outcome['reason']}); see {folder / 'output.txt'}, then remove {folder} and run again"
            )
    if cycle.threshold is None:
        cycle.threshold = math.ceil(slowest_end(cycle, runs) * 10**_DIGITS) / 10**_DIGITS
        cycle.save()


def slowest_end(cycle: Cycle, runs: Sequence[Run]) -> float:
    """The largest of the last values of the metric: what every run got to. Raises `UserError` where one has logged none."""
    ends = []
    for run in runs:
        folder = outcome_file(cycle, run).parent
        values = read_curve(records(folder), cycle.metric).values
        if not len(values):
            raise UserError(f"{run} has logged no {cycle.metric}; what it said is in {folder / 'output.txt'}")
        ends.append(float(values[-1]))
    return max(ends)
