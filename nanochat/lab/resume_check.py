"""Test of checkpoint and resume: a short training run through, and again from its middle, must give equal tensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import ensure_dir, read_json, write_json
from nanochat.lab.cycle import Cycle
from nanochat.lab.gates import Gate
from nanochat.lab.profiles import HORIZON
from nanochat.lab.run_outcome import TAG
from nanochat.lab.runner import train

NAME = "checkpoint and resume"
STEPS = 6


def check_resume(cycle: Cycle, config: str, flags: Mapping[str, Any]) -> Gate:
    """Trains `STEPS` steps, and the second half again from the checkpoint in the middle; passes if all bits are equal.

    The answer is kept in the cycle's folder by the config hash, next to output.txt of the trainings.
    """
    folder = cycle.folder / "resume" / config
    answer = folder / "answer.json"
    if not answer.exists():
        ensure_dir(folder)
        write_json(answer, {"differs": _difference(cycle, folder, flags)})
    differs = read_json(answer)["differs"]
    return Gate(NAME, not differs, differs or "exact")


def _difference(cycle: Cycle, folder: Path, flags: Mapping[str, Any]) -> str:
    """Files that differ between the two trainings; empty if none do."""
    short = {name: value for name, value in flags.items() if name not in HORIZON}
    short |= {"num_iterations": STEPS, "save_every": STEPS // 2, "keep_checkpoints": -1, "eval_every": -1, "log_every": 1}
    store, whole, last = folder / "base_checkpoints" / TAG, folder / "whole", f"step_{STEPS:07d}"
    shutil.rmtree(store, ignore_errors=True)
    if code := train(cycle, folder, short, resume="never"):
        return f"training {STEPS} steps ended with exit code {code}"
    shutil.rmtree(whole, ignore_errors=True)
    (store / last).rename(whole)
    if code := train(cycle, folder, short, resume=str(STEPS // 2)):
        return f"resuming at step {STEPS // 2} ended with exit code {code}"
    names = sorted(path.name for path in whole.glob("*.safetensors"))
    different = [name for name in names if (whole / name).read_bytes() != (store / last / name).read_bytes()]
    for done in (whole, folder / "base_checkpoints"):
        shutil.rmtree(done)
    return f"{', '.join(different)} differ after a resume at step {STEPS // 2}" if different else ""
