"""How a run ended: its status, and the row of results that its metrics give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanochat.common import read_json
from nanochat.lab.curve import METHOD, Figures, extrapolated, measured, read_curve, read_figures
from nanochat.lab.cycle import Cycle, Experiment
from nanochat.tracking.run_log import METRICS_FILE, RUN_FILE
from nanochat.tracking.sinks import read_metrics

OUTCOME = "outcome.json"
TAG = "run"  # of the checkpoints and metrics inside a run's folder
OK, DIVERGED, CRASHED = "ok", "diverged", "crashed"


def metrics_folder(run: Path) -> Path:
    """Where base_train logs in the folder of a run."""
    return run / "base_runs" / TAG


def records(run: Path) -> list[dict[str, Any]]:
    """What it has logged so far."""
    path = metrics_folder(run) / METRICS_FILE
    return read_metrics(path) if path.exists() else []


def reached_end(run: Path) -> bool:
    """Whether the last step has been logged, whoever trained it."""
    file = metrics_folder(run) / RUN_FILE
    steps = read_json(file)["steps"] if file.exists() else None
    return steps is not None and any(record["step"] == steps and "train/loss" in record for record in records(run))


def bad_batches(run: Path) -> int:
    """Steps whose loss or gradient was not finite."""
    path = metrics_folder(run) / "bad_batches.jsonl"
    return len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0


def classify(run: Path, code: int | None) -> tuple[str, str]:
    """(status, reason) of a run that ended with exit code `code`, None where nobody knows it but the run is at its end."""
    figures = read_figures(records(run)) if (metrics_folder(run) / METRICS_FILE).exists() else None
    if code == 0 and not reached_end(run):
        return CRASHED, "it was stopped from outside before its last step"
    if code not in (0, None):
        bad = bad_batches(run)
        return (DIVERGED, f"{bad} steps without a finite loss") if bad else (CRASHED, f"exit code {code}: {_last_words(run)}")
    if figures is None:
        return CRASHED, "it logged fewer than two intervals; a lower log_every gives more"
    first = next(r["train/loss"] for r in records(run) if r.get("train/loss") is not None)
    if figures.final_loss >= first:
        return DIVERGED, f"the loss ended at {figures.final_loss:.3f}, not below the first {first:.3f}"
    return OK, ""


def row(cycle: Cycle, experiment: Experiment, seed: int, threshold: float | None = None) -> dict[str, Any]:
    """The run's row of results.csv, once its outcome is there. `threshold` is another target than the cycle's."""
    run = cycle.run_folder(experiment, seed)
    outcome = read_json(run / OUTCOME)
    flags = {**cycle.defaults, **outcome["flags"]}
    logged = records(run)
    figures = read_figures(logged) if outcome["status"] == OK else None
    target = cycle.require_threshold() if threshold is None else threshold
    reached, guess = _tokens_to_target(cycle, logged, figures, target)
    return {
        "timestamp": outcome["finished"],
        "git_commit": outcome["commit"],
        "experiment_name": experiment.name,
        "seed": seed,
        "depth": flags["depth"],
        "max_seq_len": flags["max_seq_len"],
        "device_batch_size": flags["device_batch_size"],
        "total_batch_size": _tokens_per_step(logged) or flags["total_batch_size"],
        "target_param_data_ratio": round(figures.tokens / outcome["scaling_parameters"], 6) if figures else None,
        "warmdown_ratio": flags["warmdown_ratio"],
        "warmdown_shape": flags["warmdown_shape"],
        "target_metric_name": cycle.metric,
        "target_metric_threshold": target,
        "time_to_target_sec_measured": None if reached is None else _seconds(reached, figures),
        "time_to_target_sec_extrapolated": None if guess is None else _seconds(guess, figures),
        "extrapolation_method": METHOD if guess is not None else None,
        "tok_per_sec_median": figures.tok_per_sec if figures else None,
        "dt_median_ms": figures.step_ms if figures else None,
        "wall_time_sec": figures.wall_seconds if figures else outcome["process_seconds"],
        "final_train_loss": figures.final_loss if figures else None,
        "min_val_bpb": figures.min_bpb if figures else None,
        "peak_mem_mib": figures.peak_mem_mib if figures else None,
        "status": outcome["status"],
        "config_hash": cycle.hash(experiment),
        "hardware": cycle.surroundings.hardware,
    }


def _tokens_to_target(
    cycle: Cycle, logged: list[dict[str, Any]], figures: Figures | None, target: float
) -> tuple[float | None, float | None]:
    if figures is None:
        return None, None
    curve = read_curve(logged, cycle.metric)
    reached = measured(curve, target)
    guess = None if reached is not None else extrapolated(curve, target)
    return reached, None if guess is None else guess.tokens


def _seconds(tokens: float, figures: Figures) -> float:
    """At the median pace of the run: neither compiling nor a hiccup of the machine counts."""
    return tokens / figures.tok_per_sec


def _tokens_per_step(logged: list[dict[str, Any]]) -> int | None:
    return next((r["train/tokens_per_step"] for r in logged if "train/tokens_per_step" in r), None)


def _last_words(run: Path) -> str:
    """The last line of its output."""
    path = run / "output.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return json.dumps(said[-1][:300], ensure_ascii=False)[1:-1] if said else "it said nothing"
