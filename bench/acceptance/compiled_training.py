"""Part `compiled`: the same training compiled and eager; what was compiled, when, and what it gains."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from bench.acceptance import compiler
from bench.acceptance.lab import LONG, Lab
from bench.acceptance.record import Record

STEPS, TOY_STEPS = 20, 5
FULL = ("--depth=12", "--max-seq-len=2048", "--device-batch-size=32", f"--total-batch-size={2 * 32 * 2048}")
TOY = ("--chunked-ce=0",)  # layers only: each graph takes a second
LOSS = 0.01  # relative difference at any step: bf16 rounds by 0.4 %, and a loss is a mean over many targets
WARM = 2  # steps in which compiling is expected


def run(lab: Lab, record: Record) -> None:
    """Trains twice."""
    steps = TOY_STEPS if lab.toy else STEPS
    eager, _ = train(lab, "eager", steps, compiled=False)
    compiled, counts = train(lab, "compiled", steps, compiled=True)
    losses = [[each["train/loss"] for each in run[:steps]] for run in (compiled, eager)]
    differences = [abs(mine / other - 1) for mine, other in zip(*losses, strict=True)]
    record.at_most(f"loss of {steps} steps", max(differences), LOSS, "largest relative difference from eager steps")
    record.at_most("loss at the end", losses[0][-1], losses[0][0], "the first step's: it learns")
    late = [each for each in counts if each["records"] >= WARM]
    last = counts[-1] if counts else {"graphs": 0, "breaks": 0, "seconds": 0.0}
    record.at_least("graphs", last["graphs"], 1)
    record.report("graph breaks", last["breaks"])
    record.equal(f"compilations after step {WARM}", len(late), 0, "each stalls the training")
    record.report("compilation", last["seconds"], "s")
    times = [median(each["train/dt"] for each in run[WARM:steps]) for run in (compiled, eager)]
    record.report("first step, compiled", compiled[0]["train/dt"], "s")
    record.report("later steps, compiled", times[0], "s, median")
    record.report("later steps, eager", times[1], "s, median")
    if lab.toy:
        record.skip("speed-up", "steps of a toy say nothing")
    else:
        record.at_least("speed-up", times[1] / times[0], 1.0, "×")


def train(lab: Lab, tag: str, steps: int, compiled: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics of each step, and what was compiled by when."""
    home = lab.home(tag)
    counts = home.base / f"{tag}-compilations.jsonl"
    counts.unlink(missing_ok=True)
    argv = [*home.argv, *lab.flags(tag, FULL, TOY), f"--compile={int(compiled)}", LONG]
    files = (str(counts), str(home.metrics_file))
    backend = compiler.TOY if lab.toy else compiler.REAL
    process = home.begin("bench.acceptance.counted_training", *files, backend, *argv, environment=lab.environment)
    lab.kill_after(process, home, steps)
    return home.metrics(), [json.loads(line) for line in counts.read_text().splitlines()] if counts.exists() else []
