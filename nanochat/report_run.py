"""What the report shows of a training run: its curves, and those of a run with a memory beside its baseline's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.figures import curves_png, memory_png
from nanochat.report_data import run_file
from nanochat.report_parts import Page
from nanochat.run_comparison import compare, comparison_markdown, comparison_png, notes_of
from nanochat.tracking.run_reader import LOSS, Run, read_run
from nanochat.tracking.sinks import read_metrics

Records = Sequence[Mapping[str, Any]]
_AT_HORIZON = re.compile(r"mc/(.+)@(\d+)")
_AT_LEVEL = re.compile(r"mc/lod_(.+)/(\d+)")


def show_run(page: Page, name: str, title: str, metrics_file: str, baseline_file: str | None = None) -> None:
    """Adds the curves of the run that logged to `metrics_file`, and where it has a baseline, how the two compare.

    The figure is called `name`. `baseline_file` is for a run with a memory: where the same run without one logs.
    """
    path = run_file(metrics_file)
    if not path.exists():
        page.add(f"No curves: {markdown.escape(str(path))} is not there any more.")
        return
    baseline = None if baseline_file is None else _baseline(page, run_file(baseline_file))
    if baseline is None:
        shown = page.figure(name, f"{title}: loss and bits per byte against tokens", curves_png(read_metrics(path), title))
    else:
        runs = [baseline, read_run(path, "MegaContext")]
        png = comparison_png(runs, "tokens", [LOSS, "val/bpb"], smoothed=True)
        shown = page.figure(name, f"{title}: loss and bits per byte beside the baseline's", png)
        _compare(page, runs)
    if not shown:
        page.add(f"No curves: {markdown.escape(str(path))} has no losses.")


def show_memory_run(page: Page, name: str, metrics_file: str) -> None:
    """Adds what the run with a memory that logged to `metrics_file` says of it: a figure called `name`, and last values as tables."""
    path = run_file(metrics_file)
    if not path.exists():
        return
    records = read_metrics(path)
    page.figure(name, "In training: ΔNLL, recovery, loss by level, preferences", memory_png(records, "Memory"))
    page.add(*markdown.values(_memory_values(records), level=4))


def _baseline(page: Page, path: Path) -> Run | None:
    if path.exists():
        return read_run(path, "baseline")
    page.add(f"No baseline to compare with: {markdown.escape(str(path))} is not there; run the same without --mc.")
    return None


def _compare(page: Page, runs: Sequence[Run]) -> None:
    """Adds what `scripts.compare` prints of these runs."""
    comparison = compare(runs)
    page.add(comparison_markdown(comparison))
    lines = [line for verdict in comparison.verdicts for line in (str(verdict), *verdict.notes)]
    page.add(*(markdown.escape(line) for line in [*lines, *(note for run in runs for note in notes_of(run))]))


def _memory_values(records: Records) -> dict[str, Any]:
    """The last value of each mc/ metric: those of horizons, those of levels, the others."""
    last = {name: value for name, value in last_values(records).items() if name.startswith("mc/") and value is not None}
    horizons: dict[int, dict[str, Any]] = {}
    levels: dict[int, dict[str, Any]] = {}
    others = {}
    for name, value in last.items():
        if at := _AT_HORIZON.fullmatch(name):
            horizons.setdefault(int(at[2]), {"horizon": int(at[2])})[at[1]] = value
        elif at := _AT_LEVEL.fullmatch(name):
            levels.setdefault(int(at[2]), {"level": int(at[2])})[at[1]] = value
        else:
            others[name.removeprefix("mc/")] = value
    return {
        "memory behind the decision point": [horizons[h] for h in sorted(horizons)],
        "memory by level": [levels[level] for level in sorted(levels)],
        "memory at the end of training": others,
    }


def last_values(records: Records) -> dict[str, Any]:
    """The last value of every metric."""
    return {name: value for record in records for name, value in record.items()}
