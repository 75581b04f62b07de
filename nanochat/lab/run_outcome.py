"""Outcome of a run: status (ok, diverged, crashed) and row of results.csv."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanochat.common import read_json
from nanochat.lab.curve import METHOD, extrapolated, read_curve, read_summary
from nanochat.lab.cycle import Cycle, Experiment
from nanochat.lab.results import COLUMNS
from nanochat.tracking.run_log import METRICS_FILE, RUN_FILE
from nanochat.tracking.sinks import read_metrics

OUTCOME = "outcome.json"
TAG = "run"  # model tag inside a run's folder
OK, DIVERGED, CRASHED = "ok", "diverged", "crashed"


def metrics_folder(run: Path) -> Path:
    """Folder of base_train's metrics in the folder of a run."""
    return run / "base_runs" / TAG


def records(run: Path) -> list[dict[str, Any]]:
    """Metrics that a run has logged so far."""
    path = metrics_folder(run) / METRICS_FILE
    return read_metrics(path) if path.exists() else []


def reached_end(run: Path) -> bool:
    """True if the last step has been logged, by any process."""
    file = metrics_folder(run) / RUN_FILE
    steps = read_json(file)["steps"] if file.exists() else None
    return steps is not None and any(record["step"] == steps and "train/loss" in record for record in records(run))


def bad_batches(run: Path) -> int:
    """Number of steps with a non-finite loss or gradient."""
    path = metrics_folder(run) / "bad_batches.jsonl"
    return len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0


def classify(run: Path, code: int | None) -> tuple[str, str]:
    """(status, reason) of a run that ended with exit code `code`; None if the code is unknown but the run reached its end."""
    summary = read_summary(records(run))
    if code == 0 and not reached_end(run):
        return CRASHED, "it was stopped from outside before its last step"
    if code not in (0, None):
        bad = bad_batches(run)
        return (DIVERGED, f"{bad} steps without a finite loss") if bad else (CRASHED, f"exit code {code}: {_last_words(run)}")
    if summary is None:
        return CRASHED, "it logged fewer than two intervals; use a lower log_every"
    first = next(r["train/loss"] for r in records(run) if r.get("train/loss") is not None)
    if summary.final_loss >= first:
        return DIVERGED, f"the loss ended at {summary.final_loss:.3f}, not below the first {first:.3f}"
    return OK, ""


def row(cycle: Cycle, experiment: Experiment, seed: int, threshold: float | None = None) -> dict[str, Any]:
    """Row of results.csv of a run that has an outcome. `threshold` replaces the cycle's."""
    run = cycle.run_folder(experiment, seed)
    outcome = read_json(run / OUTCOME)
    flags = {**cycle.defaults, **outcome["flags"]}
    logged = records(run)
    target = cycle.require_threshold() if threshold is None else threshold
    values = dict.fromkeys(COLUMNS) | {
        "timestamp": outcome["finished"],
        "git_commit": outcome["commit"],
        "experiment_name": experiment.name,
        "seed": seed,
        "depth": flags["depth"],
        "max_seq_len": flags["max_seq_len"],
        "device_batch_size": flags["device_batch_size"],
        "total_batch_size": next((r["train/tokens_per_step"] for r in logged if "train/tokens_per_step" in r), flags["total_batch_size"]),
        "warmdown_ratio": flags["warmdown_ratio"],
        "warmdown_shape": flags["warmdown_shape"],
        "target_metric_name": cycle.metric,
        "target_metric_threshold": target,
        "wall_time_sec": outcome["process_seconds"],
        "status": outcome["status"],
        "config_hash": cycle.hash(experiment),
        "hardware": cycle.surroundings.hardware,
    }
    summary = read_summary(logged) if outcome["status"] == OK else None
    if summary is None:
        return values
    # Times are at the median pace of the run, which excludes compiling and hiccups of the machine.
    curve = read_curve(logged, cycle.metric)
    if (reached := curve.crossing(target)) is not None:
        values["time_to_target_sec_measured"] = reached / summary.tok_per_sec
    elif (guess := extrapolated(curve, target)) is not None:
        values |= {"time_to_target_sec_extrapolated": guess.tokens / summary.tok_per_sec, "extrapolation_method": METHOD}
    return values | {
        "target_param_data_ratio": round(summary.tokens / outcome["scaling_parameters"], 6),
        "tok_per_sec_median": summary.tok_per_sec,
        "dt_median_ms": summary.step_ms,
        "wall_time_sec": summary.wall_seconds,
        "final_train_loss": summary.final_loss,
        "min_val_bpb": summary.min_bpb,
        "peak_mem_mib": summary.peak_mem_mib,
    }


def _last_words(run: Path) -> str:
    """Last line of a run's output."""
    path = run / "output.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return json.dumps(said[-1][:300], ensure_ascii=False)[1:-1] if said else "no output"
