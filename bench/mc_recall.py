"""Recall benchmark of the memory: key–value pairs far back, with every far block a gist, or a few raw as chosen by LensNet.

    python -m bench.mc_recall              # every setting, two at a time, one thread each
    python -m bench.mc_recall --only hard  # those of one task

Accuracies are of the values' tokens on fresh rows; each setting is trained from scratch by `bench.recall_worker`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.common import UserError
from nanochat.flags import flag, parse, run

COMMON = ("--mc-joint=mean", "--mc-max-lod=1", "--show-every=100")
EASY = (
    "--task=easy",
    "--steps=700",
    "--batch=32",
    "--block-size=8",
    "--allocator-recent-tokens=16",
    "--mc-horizon=16",
    "--mc-train-wc-length=33",
)
HARD = (
    "--task=hard",
    "--steps=700",
    "--lr=1.0",
    "--batch=16",
    "--allocator-recent-tokens=32",
    "--mc-horizon=32",
    "--mc-train-wc-length=65",
)
# Every far block is a gist: narrow variants early, and nothing for LensNet to choose.
GISTS = ("--mc-lens-loss-weight=0", "--mc-num-random-variants=2", "--anneal=0.15", "--head-dim=16", "--gistnet-pooling=query")
# Three of the fourteen far blocks are raw, and gists cannot hold every binding, so the choice matters.
FOCUS = ("--task=focus", "--steps=700", "--batch=16", "--allocator-recent-tokens=32", "--mc-horizon=32", "--mc-train-wc-length=171",
         "--anneal=0.02", "--gistnet-type=mean", "--mc-lens-every=1", "--mc-lens-contexts=4")  # fmt: skip
# The longest first, so that none of them is the last to finish.
SHORT = (("hard", "transformer", 4), ("hard", "context", 4), ("easy", "transformer", 1), ("easy", "context", 1), ("easy", "mean", 1))
LONG = (
    *(("hard", kind, slots) for kind in ("transformer", "context", "mean") for slots in (1, 2, 4)),
    *(("easy", kind, 1) for kind in ("transformer", "context", "mean")),
)
COLUMNS = ("task", "gistnet_type", "gist_slots", "full_accuracy", "gist_accuracy", "focus_accuracy", "random_accuracy", "oracle_accuracy",
           "lens_hit_rate", "steps", "minutes")  # fmt: skip


@dataclass
class MCRecall:
    """Train and measure the memory on rows that test recall; the last line is JSON."""

    only: Literal["all", "easy", "hard", "focus"] = flag("all", "task to run")
    table: Literal["short", "long"] = flag("short", "types of gists and slots: short = the main ones, long = all")
    workers: int = flag(2, "settings trained at a time, with one thread each", unit="processes")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the settings, prints a table and the summary; returns the exit code."""
    config = parse(MCRecall, argv)
    begin = time.perf_counter()
    wanted = [setting for setting in settings(config.table) if config.only == "all" or f"--task={config.only}" in setting]
    with ThreadPoolExecutor(config.workers) as pool:
        results = list(pool.map(train, wanted))
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *results]:
        print("  ".join(f"{_cell(row.get(name)):>16}" for name in COLUMNS))
    print(json.dumps(summary(results) | {"minutes": round((time.perf_counter() - begin) / 60, 2)}))
    return 0


def settings(table: str) -> list[tuple[str, ...]]:
    """Flags of each worker."""
    tasks = {"easy": EASY, "hard": HARD}
    kinds = SHORT if table == "short" else LONG
    return [FOCUS, *((*tasks[task], *GISTS, f"--gistnet-type={kind}", f"--gist-slots={slots}") for task, kind, slots in kinds)]


def train(setting: tuple[str, ...]) -> dict[str, Any]:
    """Runs a worker, forwarding its output; returns its measurements."""
    command = [sys.executable, "-m", "bench.recall_worker", *COMMON, *setting]
    last, label = "", " ".join(flag.removeprefix("--") for flag in setting if flag.startswith(("--task", "--gist")))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        for line in process.stdout:
            last = line
            if not line.startswith("{"):
                print(f"[{label}] {line.rstrip()}", flush=True)
    if process.returncode:
        raise UserError(f"{' '.join(command[1:])} ended with {process.returncode}; its output is above")
    return json.loads(last)


def summary(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of the last line: the least full accuracy, the best gists of each task, and those of the focus task."""
    out = {"full_accuracy": min(result["full_accuracy"] for result in results)}
    for task in ("easy", "hard"):
        found = [result["gist_accuracy"] for result in results if result["task"] == task]
        if found:
            out[f"{task}_gist_accuracy"] = max(found)
    for result in results:
        if result["task"] == "focus":
            out |= {name: result[name] for name in ("focus_accuracy", "random_accuracy", "oracle_accuracy", "lens_hit_rate")}
    return {name: round(value, 4) for name, value in out.items()}


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)
