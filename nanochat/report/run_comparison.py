"""Comparison of runs: their main metrics, the cost of reaching a loss, and a verdict on whether they are comparable."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat import markdown
from nanochat.report.figures import Curve, Panel, colour, panels_png
from nanochat.tracking.run_reader import LOSS, Axis, LoggedRun, reached, smooth
from nanochat.tracking.sinks import show_seconds

# Axes along which runs are aligned: name in a table, and under a figure.
AXES: dict[Axis, tuple[str, str]] = {
    "tokens": ("tokens", "tokens"),
    "flops": ("FLOPs", "FLOPs"),
    "time": ("seconds", "seconds in steps"),
    "effective_step": ("Working Contexts", "Working Contexts evaluated; rows, without a memory"),
    "step": ("steps", "steps"),
}
TITLES = {LOSS: "training loss of plain rows (nats per token)", "val/bpb": "validation bits per byte"}
# Fields of the identity that must be equal, if both runs have them.
_SAME = {"max_seq_len": "tokens of a row", "vocab_size": "vocabulary", "tokenizer": "tokenizer"}
_COUNTS = ("tok_per_sec", "tokens_per_step", "micro_batches", "steps", "tokens", "peak_mib", "tokens_to_loss", "x_to_loss")
_MODEL = ("depth", "aspect_ratio", "head_dim", "kv_heads", "window_pattern")


@dataclass(frozen=True)
class Verdict:
    """Comparability of a run with the first: `reasons` against it, number of `shared` logged steps, and `notes`."""

    run: str
    reference: str
    shared: int
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        if self.reasons:
            return f"not comparable: {self.run} with {self.reference}: {'; '.join(self.reasons)}"
        same = f"same tokens, batch and learning rate at all {self.shared} steps that both logged"
        return f"comparable: {self.run} with {self.reference}: {same}"


@dataclass(frozen=True)
class RunComparison:
    """Axis, figures of each run (see `figures_of`), the loss to reach, and a verdict on each run but the first."""

    axis: str
    figures: list[dict[str, Any]]
    target_loss: float | None
    verdicts: list[Verdict]

    @property
    def comparable(self) -> bool:
        """True if all runs can be compared with the first."""
        return not any(verdict.reasons for verdict in self.verdicts)

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of a table as text: a label, and the figure of each run."""
        target = "" if self.target_loss is None else f"{self.target_loss:.4g}"
        labels = {
            "loss": "training loss of plain rows, smoothed",
            "bpb": "validation bits per byte",
            "tok_per_sec": "tokens per second, median",
            "mfu": "share of the device's peak (MFU), median",
            "tokens_per_step": "tokens per step",
            "micro_batches": "micro-batches per step",
            "steps": "steps",
            "tokens": "tokens",
            "flops": "FLOPs",
            "seconds": "time in steps",
            "peak_mib": "peak memory, MiB",
            "tokens_to_loss": f"tokens to a loss of {target}",
            "seconds_to_loss": f"time to a loss of {target}",
            "x_to_loss": f"{self.axis} to a loss of {target}",
        }
        keys = [key for key in labels if any(figures.get(key) is not None for figures in self.figures)]
        rows = [(labels[key], *(_text(key, figures.get(key)) for figures in self.figures)) for key in keys]
        more = self.figures[0]["metrics"]
        return rows + [(name, *(_text(name, figures["metrics"][name]) for figures in self.figures)) for name in more]

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        verdicts = [vars(verdict) | {"comparable": not verdict.reasons} for verdict in self.verdicts]
        return {"x": self.axis, "runs": self.figures, "target_loss": self.target_loss, "comparable": self.comparable, "verdicts": verdicts}


def compare(
    runs: Sequence[LoggedRun], axis: Axis = "tokens", metrics: Sequence[str] = (), target_loss: float | None = None
) -> RunComparison:
    """Compares one run or more along `axis`, with the last values of `metrics` in addition to the usual figures.

    `target_loss` is by default the worst final loss, which all of them reach.
    """
    finals = [final for run in runs if (final := final_loss(run)) is not None]
    target = max(finals, default=None) if target_loss is None else target_loss
    figures = [figures_of(run, axis, metrics, target) for run in runs]
    return RunComparison(AXES[axis][0], figures, target, [verdict(runs[0], run) for run in runs[1:]])


def final_loss(run: LoggedRun) -> float | None:
    """Smoothed final loss of plain rows: the loss of a single step is mostly noise."""
    losses = run.values(LOSS)
    return smooth(losses)[-1] if losses else None


def figures_of(run: LoggedRun, axis: Axis, metrics: Sequence[str], target_loss: float | None) -> dict[str, Any]:
    """Figures of one run; None if it has not logged what they need. Losses in nats, times in seconds of steps."""
    figures: dict[str, Any] = {
        "run": run.name,
        "metrics_file": str(run.path),
        "loss": final_loss(run),
        "bpb": run.last("val/bpb"),
        "tok_per_sec": _median(run, "train/tok_per_sec"),
        "mfu": _median(run, "train/mfu"),
        "tokens_per_step": run.last("train/tokens_per_step"),
        "micro_batches": run.last("train/grad_accum_steps"),
        "steps": run.step,
        "planned_steps": run.steps,
        "tokens": run.last("total_tokens"),
        "flops": run.last("total_training_flops"),
        "seconds": run.last("total_training_time"),
        "peak_mib": run.last("train/peak_mem_mib"),
        "metrics": {name: run.last(run.metric(name)) for name in metrics if name not in (LOSS, "val/bpb")},
    }
    if target_loss is not None:
        figures["tokens_to_loss"] = reached(run.curve(LOSS, "tokens"), target_loss)
        figures["seconds_to_loss"] = reached(run.curve(LOSS, "time"), target_loss)
        if axis not in ("tokens", "time"):
            figures["x_to_loss"] = reached(run.curve(LOSS, axis), target_loss)
    return figures


def verdict(reference: LoggedRun, run: LoggedRun) -> Verdict:
    """Compares tokens, batches and learning rates of `run` and `reference` at the steps that both logged."""
    logged = {r["step"]: r for r in reference.records if "train/lrm" in r}
    both = [(logged[r["step"]], r) for r in run.records if "train/lrm" in r and r["step"] in logged]
    reasons = [] if both else ["no step that both logged"]
    for key, name in (("train/tokens_per_step", "tokens per step"), ("train/data_hash", "data"), ("train/lrm", "learning rate")):
        other = [(a[key], b[key], b["step"]) for a, b in both if key in a and key in b and a[key] != b[key]]
        if other and key == "train/data_hash":
            reasons.append(f"other tokens at {len(other)} of {len(both)} steps that both logged, first at step {other[0][2]}")
        elif other:
            reasons.append(f"{name} {other[0][1]:.6g} against {other[0][0]:.6g} at step {other[0][2]}")
    if reference.steps and run.steps and reference.steps != run.steps:
        reasons.append(f"{run.steps:,} steps planned against {reference.steps:,}")
    for key, name in _SAME.items():
        theirs, ours = reference.identity.get(key), run.identity.get(key)
        if theirs is not None and ours is not None and theirs != ours:
            reasons.append(f"{name} {ours} against {theirs}")
    return Verdict(run.name, reference.name, len(both), tuple(reasons), tuple(_notes(reference, run)))


def notes_of(run: LoggedRun) -> list[str]:
    """Caveats of a run's figures."""
    notes = []
    if run.unfinished:
        notes.append(f"{run.name} is at step {run.step:,} of {run.steps:,}: its figures are preliminary")
    bad = [name for name in ("train/loss", LOSS) if any(f"{name}_nonfinite" in record for record in run.records)]
    if bad:
        count = sum(f"{bad[0]}_nonfinite" in record for record in run.records)
        notes.append(f"{run.name}: {bad[0]} is not finite in {count} records, which are left out")
    if not run.values(LOSS):
        notes.append(f"{run.name} has no training loss")
    return notes


def comparison_png(runs: Sequence[LoggedRun], axis: Axis, metrics: Sequence[str], smoothed: bool) -> bytes | None:
    """The runs' curves over `axis` as a PNG, one panel per metric; None if there is nothing to draw.

    `smoothed` draws metrics of training as smooth curves over faint ones.
    """
    panels = []
    for name in metrics:
        smooth_it = smoothed and not name.startswith("val/")
        curves = [Curve(run.name, run.curve(name, axis), colour(i), smooth_it) for i, run in enumerate(runs)]
        panels.append(Panel(TITLES.get(name, name), curves))
    return panels_png(panels, " · ".join(run.name for run in runs), AXES[axis][1])


def comparison_markdown(comparison: RunComparison) -> str:
    """The comparison as a Markdown table."""
    names = [figures["run"] for figures in comparison.figures]
    return markdown.table(("", *names), comparison.rows(), right=range(1, len(names) + 1))


def _notes(reference: LoggedRun, run: LoggedRun) -> list[str]:
    differ = [key for key in _MODEL if reference.identity.get(key) != run.identity.get(key)]
    if not (reference.identity and run.identity and differ):
        return []
    return [f"other models: {', '.join(f'{key} {run.identity.get(key)} against {reference.identity.get(key)}' for key in differ)}"]


def _median(run: LoggedRun, name: str) -> float | None:
    values = run.values(name)
    return statistics.median(values) if values else None


def _text(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if key in ("seconds", "seconds_to_loss"):
        return show_seconds(value)
    if key == "flops":
        return f"{value:.3e}"
    if key == "mfu":
        return f"{100 * value:.1f} %"
    if key in _COUNTS:
        return f"{value:,.0f}" if value < 1e12 else f"{value:.3e}"
    if not isinstance(value, int | float):
        return markdown.visible(str(value))
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
