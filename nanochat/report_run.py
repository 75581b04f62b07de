"""What the report shows of a training run: its curves, and those of a run with a memory beside its baseline's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.figures import curves_png, memory_png, overlay_png, smooth
from nanochat.metrics import read_metrics
from nanochat.report_data import run_file
from nanochat.report_parts import Page

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
    records = read_metrics(path)
    baseline = None if baseline_file is None else _baseline(page, run_file(baseline_file))
    if baseline is None:
        shown = page.figure(name, f"{title}: loss and bits per byte against tokens", curves_png(records, title))
    else:
        shown = page.figure(name, f"{title}: loss and bits per byte beside the baseline's", overlay_png(records, baseline, title))
        page.add(_comparison(records, baseline))
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


def _baseline(page: Page, path: Path) -> list[dict[str, Any]] | None:
    if path.exists():
        return read_metrics(path)
    page.add(f"No baseline to compare with: {markdown.escape(str(path))} is not there; run the same without --mc.")
    return None


def _comparison(records: Records, baseline: Records) -> str:
    """A table of both runs: what they had in common, and where they came to."""
    theirs, ours = last_values(baseline), last_values(records)
    losses = smooth([r["train/loss_lod0"] for r in records if r.get("train/loss_lod0") is not None])
    rows = [("steps", theirs.get("step"), ours.get("step")), ("tokens", theirs.get("total_tokens"), ours.get("total_tokens"))]
    rows += [
        (label, theirs.get(key), ours.get(key))
        for label, key in (("tokens per step", "train/tokens_per_step"), ("micro-batches per step", "train/grad_accum_steps"))
    ]
    rows += [
        ("training loss of plain rows, smoothed", theirs.get("train/loss"), losses[-1] if losses else None),
        ("validation bits per byte", theirs.get("val/bpb"), ours.get("val/bpb")),
        ("seconds in steps", theirs.get("total_training_time"), ours.get("total_training_time")),
        ("tokens per second", theirs.get("train/tok_per_sec"), ours.get("train/tok_per_sec")),
    ]
    seen = {r["step"]: r for r in baseline if "train/data_hash" in r}
    both = [(seen[r["step"]], r) for r in records if "train/data_hash" in r and r["step"] in seen]
    for label, key in (("same tokens", "train/data_hash"), ("same learning rate", "train/lrm")):
        same = sum(a[key] == b[key] for a, b in both)
        rows.append((label, None, f"at {same} of {len(both)} steps that both logged"))
    return markdown.table(("", "baseline", "MegaContext"), rows, right=(1, 2))


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
