"""Cycles whose runs are written down instead of trained: curves with a known answer, in the files that real runs leave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nanochat import flags
from nanochat.common import write_json
from nanochat.lab.cycle import Cycle, Experiment, lab_folder
from nanochat.lab.profiles import Profile
from nanochat.lab.run_outcome import OUTCOME, metrics_folder
from nanochat.lab.runner import LabRun, add_rows, outcome_file
from nanochat.lab.surroundings import Surroundings
from scripts.base_train import BaseTrain

STEPS, BATCH, EVERY = 200, 1000, 4
PROFILE = Profile(
    "planted",
    "never trained",
    300,
    {
        "depth": 2,
        "aspect_ratio": 16,
        "head_dim": 16,
        "max_seq_len": 100,
        "device_batch_size": 10,
        "total_batch_size": BATCH,
        "num_iterations": STEPS,
    },  # fmt: skip
    depths=(2, 3),
)


def surroundings(**changed: Any) -> Surroundings:
    return Surroundings(**{"code": {"a.py": "1"}, "commit": "abc", "tokenizer": "t", "vocab_size": 300, "hardware": "a machine"} | changed)


def new_cycle(name: str = "planted", seeds: int = 3, threshold: float | None = 1.5) -> Cycle:
    """An empty cycle with a target, in the base folder."""
    defaults = flags.flat_values(BaseTrain())
    folder = lab_folder() / name
    cycle = Cycle(folder, PROFILE, "val/bpb", threshold, tuple(range(1, seeds + 1)), 1, surroundings(), defaults, "2026-01-01T00:00:00Z")
    cycle.save()
    return cycle


def records(
    end: float = 1.5, tok_per_sec: float = 1000.0, steps: int = STEPS, batch: int = BATCH, noise: float = 0.0, seed: int = 0
) -> list[dict]:
    """A run whose bits per byte fall along a line through `end` at the last step, and the loss with them."""
    rng = np.random.default_rng(seed)
    out = []
    for step in range(EVERY, steps + 1, EVERY):
        tokens = step * batch
        axes = {"step": step, "total_tokens": tokens, "total_training_flops": 6e3 * tokens, "total_training_time": tokens / tok_per_sec + 5}
        value = end + 2.0 * (1 - step / steps) + noise * rng.standard_normal()
        dt = batch / tok_per_sec * (3 if step == EVERY else 1)  # the first interval compiles
        train = {
            "train/loss": 2 * value,
            "train/dt": dt,
            "train/tok_per_sec": batch / dt,
            "train/tokens_per_step": batch,
            "train/peak_mem_mib": 100.0,
        }
        out += [axes | train, axes | {"val/bpb": value}]
    return out


def plant(cycle: Cycle, experiment: Experiment, seed: int, status: str = "ok", threshold: float | None = None, **curve: Any) -> None:
    """Writes what a run of these would leave, its row too."""
    run = LabRun(experiment, seed)
    folder = metrics_folder(outcome_file(cycle, run).parent)
    if folder.exists():  # another experiment shares the run
        return add_rows(cycle, [run], threshold)
    folder.mkdir(parents=True)
    logged = records(**curve)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in logged))
    write_json(folder / "run.json", {"steps": logged[-1]["step"]})
    outcome: Mapping[str, Any] = {
        "experiment": experiment.name,
        "seed": seed,
        "flags": experiment.flags,
        "knobs": dict(experiment.knobs),
        "budget": experiment.budget,
        "status": status,
        "reason": "",
        "exit_code": 0,
        "bad_batches": 0,
        "process_seconds": 9.0,
        "finished": "2026-01-01T00:00:00.000000Z",
        "commit": "abc",
        "scaling_parameters": 50_000,
    }
    write_json(folder.parent.parent / OUTCOME, outcome)
    add_rows(cycle, [run], threshold)


def plant_sweep(cycle: Cycle, speed_up: float = 0.0, worse: float = 0.0, noise: float = 0.005, seed: int = 0) -> str:
    """The baseline and one candidate, whose pace is `speed_up` higher and whose end is `worse`; returns the candidate's name."""
    rng = np.random.default_rng(seed)
    candidate = cycle.experiment("X/lr_mult=1.1", {"lr_mult": 1.1})
    for number in cycle.seeds:
        for experiment, faster, shift in ((cycle.baseline, 0.0, 0.0), (candidate, speed_up, worse)):
            pace = 1000 * math.exp(noise * rng.standard_normal()) * (1 + faster)
            plant(cycle, experiment, number, end=1.49 + shift, tok_per_sec=pace)
    config = cycle.hash(candidate)
    (cycle.folder / "resume" / config).mkdir(parents=True)
    write_json(cycle.folder / "resume" / config / "answer.json", {"differs": ""})
    return candidate.name
