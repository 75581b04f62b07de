"""Whether a configuration still continues from a checkpoint exactly: trained through once, and once from half-way."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import ROOT, ensure_dir, read_json, write_json
from nanochat.lab.cycle import Cycle
from nanochat.lab.gates import Gate
from nanochat.lab.knobs import HORIZON
from nanochat.lab.outcome import TAG
from nanochat.lab.runner import command, environment

STEPS = 6
NAME = "checkpoint and resume"


def check_resume(cycle: Cycle, config: str, flags: Mapping[str, Any]) -> Gate:
    """Trains `STEPS` steps through and again from the checkpoint in the middle; passes where the tensors are equal, bit for bit.

    The answer is kept in the cycle's folder by the config hash. What was said is in output.txt beside it.
    """
    folder = cycle.folder / "resume" / config
    answer = folder / "answer.json"
    if not answer.exists():
        ensure_dir(folder)
        write_json(answer, {"differs": _trained_twice(cycle, folder, flags)})
    differs = read_json(answer)["differs"]
    return Gate(NAME, not differs, differs or "exact")


def _trained_twice(cycle: Cycle, folder: Path, flags: Mapping[str, Any]) -> str:
    """What differs between the two trainings; empty where nothing does."""
    short = {name: value for name, value in flags.items() if name not in HORIZON}
    short |= {"num_iterations": STEPS, "save_every": STEPS // 2, "keep_checkpoints": -1, "eval_every": -1, "log_every": 1}
    store = folder / "base_checkpoints" / TAG
    whole = folder / "whole"
    shutil.rmtree(store, ignore_errors=True)
    if code := _train(cycle, folder, short, "never"):
        return f"training {STEPS} steps ended with exit code {code}"
    last = f"step_{STEPS:07d}"
    shutil.rmtree(whole, ignore_errors=True)
    (store / last).rename(whole)
    if code := _train(cycle, folder, short, str(STEPS // 2)):
        return f"resuming at step {STEPS // 2} ended with exit code {code}"
    names = sorted(path.name for path in whole.glob("*.safetensors"))
    different = [name for name in names if (whole / name).read_bytes() != (store / last / name).read_bytes()]
    for done in (whole, folder / "base_checkpoints"):
        shutil.rmtree(done)
    return f"{', '.join(different)} differ after a resume at step {STEPS // 2}" if different else ""


def _train(cycle: Cycle, folder: Path, flags: dict[str, Any], resume: str) -> int:
    with open(folder / "output.txt", "ab") as output:
        line = [*command(flags, cycle.seeds[0]), f"--resume={resume}"]
        done = subprocess.run(line, cwd=ROOT, env=environment(folder, cycle.jobs), stdout=output, stderr=output, check=False)
    return done.returncode
