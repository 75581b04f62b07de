"""The target of a cycle: a value of its metric, locked by the baseline before anything is compared with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nanochat.common import UserError, read_json
from nanochat.lab.curve import read_curve
from nanochat.lab.cycle import Cycle
from nanochat.lab.outcome import OK, records
from nanochat.lab.runner import Run, outcome_file

_DIGITS = 4


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
