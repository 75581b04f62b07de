"""Accuracy of the estimate of base_train's CPU memory: `python -m bench.memory_estimate`.

Each shape is trained for a few steps in a process of its own, or two that share the model, and the peak of the (first) one's resident
memory is measured. `--quick` skips compiled and larger shapes. The last line is JSON: every shape, and the largest error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nanochat.flags import parse
from nanochat.profiling.device_memory import MIB
from nanochat.tracking.sinks import read_metrics
from scripts.memory_estimate import EstimateMemory, estimate

VOCABULARY = 8192
STEPS = 4
QUIET = ("--device-type=cpu", "--eval-every=-1", "--sample-every=-1", "--log-every=1", "--resume=never", f"--num-iterations={STEPS}")
# Depth, tokens of a row, rows of a micro-batch, and more flags.
SHAPES = [
    (2, 512, 4, ("--compile=0",)),
    (4, 512, 4, ("--compile=0",)),
    (4, 512, 8, ("--compile=0",)),
    (6, 512, 8, ("--compile=0",)),
    (4, 512, 8, ("--compile=0", "--mc")),
    (4, 512, 8, ("--compile=0", "--mc", "--mc-preset=fast", "--mc-anneal=0")),
    (6, 512, 16, ("--compile=0",)),
    (8, 1024, 8, ("--compile=0",)),
    (4, 512, 8, ()),
    (6, 512, 16, ()),
    (4, 512, 8, ("--mc", "--mc-preset=fast", "--mc-anneal=0")),
    (4, 512, 16, ("--compile=0", "--activation-checkpointing=full")),
    (6, 512, 16, ("--compile=0", "--activation-checkpointing=full")),
    (6, 512, 16, ("--compile=0", "--activation-checkpointing=selective")),
    (4, 512, 16, ("--compile=0", "--mc", "--activation-checkpointing=full")),
    (4, 512, 8, ("--compile=0", "--shard-model")),
    (6, 512, 16, ("--compile=0", "--shard-model")),
    (8, 512, 8, ("--compile=0", "--shard-model", "--activation-checkpointing=full")),
]
QUICK = 6


def main() -> None:
    """Runs all shapes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small shapes only, uncompiled")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the shapes to run")
    parser.add_argument("--base", type=Path, help="folder for the tokenizer and the tokens, kept; default: one that is deleted")
    arguments = parser.parse_args()
    chosen = list(enumerate(SHAPES))[: QUICK if arguments.quick else None]
    if arguments.only:
        chosen = [(number, shape) for number, shape in chosen if number in arguments.only]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.base or Path(temporary)
        surroundings = os.environ | {"NANOCHAT_BASE_DIR": str(base)}
        if not (base / "tokenizer").exists():
            run("scripts.tok_train", [f"--vocab-size={VOCABULARY}", "--dataset=local"], surroundings)
        for number, shape in chosen:
            rows.append(try_out(number, *shape, surroundings))
    print(json.dumps({"shapes": rows, "largest_error": max(abs(row["error"]) for row in rows)}))


def try_out(number: int, depth: int, T: int, batch: int, more: tuple[str, ...], surroundings: dict[str, str]) -> dict[str, Any]:
    """Trains one shape; returns flags, predicted and measured MiB, and the error relative to the measured."""
    processes = 2 if "--shard-model" in more else 1
    step = 2 * T * batch * processes
    sizes = (f"--depth={depth}", f"--max-seq-len={T}", f"--device-batch-size={batch}", f"--total-batch-size={step}")
    argv = [*sizes, "--head-dim=64", *more]
    predicted = estimate(parse(EstimateMemory, [*argv, *QUIET, f"--vocab-size={VOCABULARY}", f"--processes={processes}"])).at(batch)
    tag = f"shape{number}" + "-mc" * ("--mc" in more)
    run("scripts.base_train", [*argv, *QUIET, f"--model-tag={tag}", "--dataset=local"], surroundings, processes)
    records = read_metrics(Path(surroundings["NANOCHAT_BASE_DIR"]) / "base_runs" / tag / "metrics.jsonl")
    measured, foreseen = max(record["train/peak_mem_mib"] for record in records), predicted.total / MIB
    row = {"flags": " ".join(argv), "predicted_mib": foreseen, "measured_mib": measured, "error": foreseen / measured - 1}
    parts = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in predicted.parts.items())
    print(f"{measured:8,.0f} MiB, predicted {foreseen:8,.0f} ({row['error']:+.0%}): {row['flags']} ({parts})", flush=True)
    return row


def run(module: str, argv: list[str], surroundings: dict[str, str], processes: int = 1) -> None:
    """Runs a script in so many processes, and shows its output if it failed."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run([sys.executable, *torchrun, "-m", module, *argv], env=surroundings, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{module} {' '.join(argv)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
