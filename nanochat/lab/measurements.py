"""Measurements of a cycle's runs, from results.csv and the runs' metrics, and the threshold that they lock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from nanochat.common import UserError, read_json
from nanochat.lab.curve import extrapolated, read_curve, read_summary
from nanochat.lab.cycle import BASELINE, Cycle
from nanochat.lab.gates import Measured
from nanochat.lab.results import ResultRow, key
from nanochat.lab.run_outcome import OK, OUTCOME, records
from nanochat.lab.runner import LabRun, outcome_file

_NORMAL_90 = 1.645  # half the width of a normal's 90 % interval, in standard deviations
_DIGITS = 4  # of the threshold


def hashes(cycle: Cycle) -> dict[str, str]:
    """Experiment → config hash of its newest row, in the order in which they were first run."""
    return {row["experiment_name"]: row["config_hash"] for row in cycle.results.rows()}


def measure(cycle: Cycle, experiment: str, seeds: Sequence[int], threshold: float | None = None) -> list[Measured]:
    """Runs of an experiment at these seeds. `threshold` replaces the cycle's. Raises `UserError` if a run is missing."""
    config = hashes(cycle).get(experiment)
    if config is None:
        raise UserError(f"there is no {experiment!r} in {cycle.results.path}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    rows = cycle.results.newest()
    if missing := [str(seed) for seed in seeds if (config, seed) not in rows]:
        raise UserError(f"{experiment} has no row for seed {', '.join(missing)} in {cycle.results.path}; run its sweep to the end")
    target = cycle.require_threshold() if threshold is None else threshold
    return [_measured(cycle, rows[config, seed], target) for seed in seeds]


def run_records(cycle: Cycle, row: ResultRow) -> list[dict[str, Any]]:
    """Metrics of the run of a row. Raises `UserError` if they have been removed."""
    folder = cycle.run_folder(*key(row))
    if not (folder / OUTCOME).exists():
        raise UserError(f"{folder} no longer has the metrics of {row['experiment_name']} seed {row['seed']}; restore it or run it again")
    return records(folder)


def members(cycle: Cycle, sweep: str) -> list[str]:
    """Experiments of a sweep that have rows."""
    return [name for name in hashes(cycle) if name.startswith(f"{sweep}/")]


def variance(cycle: Cycle) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and their ratio, over the baseline's seeds, of the figures that decide."""
    runs = measure(cycle, BASELINE, cycle.seeds)
    values = {
        "seconds_to_target": [run.seconds_to_target for run in runs],
        "seconds_of_run": [run.steady_seconds for run in runs],
        "final_train_loss": [run.final_loss for run in runs],
        "min_val_bpb": [run.min_bpb for run in runs],
    }
    answer = {}
    for name, found in values.items():
        if None not in found and len(found) > 1:
            mean, deviation = statistics.fmean(found), statistics.stdev(found)
            answer[name] = {"mean": mean, "deviation": deviation, "relative": deviation / mean}
    return answer


def lock_threshold(cycle: Cycle, runs: Sequence[LabRun]) -> None:
    """Saves the threshold of a cycle that has none: `slowest_end` of the baseline's runs, rounded up.

    Raises `UserError` if a run of the baseline has failed: there is nothing to compare with then.
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


def slowest_end(cycle: Cycle, runs: Sequence[LabRun]) -> float:
    """The largest final value of the metric, which every run reached. Raises `UserError` if a run has logged none."""
    ends = []
    for run in runs:
        folder = outcome_file(cycle, run).parent
        values = read_curve(records(folder), cycle.metric).values
        if not len(values):
            raise UserError(f"{run} has logged no {cycle.metric}; see {folder / 'output.txt'}")
        ends.append(float(values[-1]))
    return max(ends)


def _measured(cycle: Cycle, row: ResultRow, target: float) -> Measured:
    config, seed = key(row)
    if row["status"] != OK:
        return Measured(seed, row["status"], None, 0.0, math.nan, math.nan, None)
    logged = run_records(cycle, row)
    summary = read_summary(logged)
    assert summary is not None, "a run that is ok has a summary"
    curve = read_curve(logged, cycle.metric)
    tokens, uncertainty = curve.crossing(target), 0.0
    if tokens is None and (guess := extrapolated(curve, target)) is not None:
        tokens = guess.tokens
        uncertainty = math.log(guess.high / guess.low) / (2 * _NORMAL_90)
    return Measured(
        seed,
        row["status"],
        None if tokens is None else tokens / summary.tok_per_sec,
        uncertainty,
        summary.steady_seconds,
        summary.final_loss,
        summary.min_bpb,
        read_json(cycle.run_folder(config, seed) / OUTCOME)["bad_batches"],
        summary.spike,
    )
