"""What the report shows of a training run: its curves, and those of a run with a memory beside its baseline's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.common import atomic_write
from nanochat.figures import curves_png, memory_png, overlay_png, smooth
from nanochat.metrics import read_metrics

Records = Sequence[Mapping[str, Any]]
_AT_HORIZON = re.compile(r"mc/(.+)@(\d+)")
_AT_LEVEL = re.compile(r"mc/lod_(.+)/(\d+)")


def show_run(name: str, title: str, metrics_file: Path, baseline_file: Path | None, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Blocks of Markdown about the run that logged to `metrics_file`, and values for the tables of its section.

    The figures go to `folder`, their names begin with `name`. `baseline_file` is for a run with a memory: where the same run
    without one logs.
    """
    if not metrics_file.exists():
        return [f"No curves: {markdown.escape(str(metrics_file))} is not there any more."], {}
    records = read_metrics(metrics_file)
    if baseline_file is None:
        return [_figure(name, f"{title}: loss and bits per byte against tokens", curves_png(records, title), folder, metrics_file)], {}
    blocks = []
    if baseline_file.exists():
        baseline = read_metrics(baseline_file)
        caption = f"{title}: loss and bits per byte beside the baseline's"
        blocks += [_figure(name, caption, overlay_png(records, baseline, title), folder, metrics_file), _comparison(records, baseline)]
    else:
        blocks.append(f"No baseline to compare with: {markdown.escape(str(baseline_file))} is not there; run the same without --mc.")
        blocks.append(_figure(name, f"{title}: loss and bits per byte against tokens", curves_png(records, title), folder, metrics_file))
    memory = memory_png(records, "Memory")
    if memory is not None:
        blocks.append(_figure(f"{name}_memory", "Memory: ΔNLL, recovery, loss by level, preferences", memory, folder, metrics_file))
    return blocks, _memory_values(records)


def _figure(name: str, caption: str, png: bytes | None, folder: Path, metrics_file: Path) -> str:
    """Writes a figure and returns the line that shows it."""
    if png is None:
        return f"No curves: {markdown.escape(str(metrics_file))} has no losses."
    atomic_write(folder / f"{name}.png", png)
    return f"![{caption}]({name}.png)"


def _comparison(records: Records, baseline: Records) -> str:
    """A table of both runs: what they had in common, and where they came to."""
    theirs, ours = _last(baseline), _last(records)
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
    last = {name: value for name, value in _last(records).items() if name.startswith("mc/") and value is not None}
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


def _last(records: Records) -> dict[str, Any]:
    """The last value of every metric."""
    return {name: value for record in records for name, value in record.items()}
