"""Cost of checkpoints: `python -m bench.checkpoint_cost`.

Several gloo processes, with a model and its optimizer, save it: how long training stops for a save that it waits for, and for one in
the background. Then others, as many or not, resume from it: the most memory that one takes beyond its model, over the size of the
optimizer state that it owns. The last line is JSON; `ok` and the exit code say whether that is at most 1.2.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from nanochat.checkpoint.background import BackgroundSaves
from nanochat.checkpoint.restore import restore_module
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import ROOT
from nanochat.flags import check, flag, parse, run
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan

MOST = 1.2  # memory of a resume over a process's share
SAVES = 3
PLAN = TrainPlan(total_batch_size=256, num_iterations=8, lr_scale=0.1, weight_decay_scale=0.1)


@dataclass
class CheckpointCost:
    """Measure how long a save stops training, and how much memory a resume takes."""

    processes: int = flag(2, "processes that save")
    resumed_by: str = flag("2,4", "numbers of processes that resume, one after the other")
    depth: int = flag(6, "depth of the model; its checkpoint has about 0.8 GB at 6")
    vocab_size: int = flag(32768, "vocabulary of the model")
    folder: str = flag("", "folder for the checkpoints; empty = a temporary one")
    part: Literal["all", "save", "resume"] = flag("all", "save or resume = what one of the processes does")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "must be at least 1", "processes", "depth")
        if not all(count.isdecimal() and int(count) for count in self.resumed_by.split(",")):
            raise ValueError(f"invalid resumed_by {self.resumed_by!r}: expected numbers of processes, such as 2,4")


def memory() -> tuple[int, int]:
    """Resident bytes of this process, now and at most since `forget_peak`."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {line[0]: int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
    return kib["VmRSS:"] * 1024, kib["VmHWM:"] * 1024


def forget_peak() -> int:
    """Returns freed memory to the system, and the resident bytes from which the peak counts now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory()[0]


def work(config: CheckpointCost) -> dict[str, Any]:
    """What one process measures."""
    runtime = start(RuntimeFlags(device_type="cpu"))
    shape = GPTConfig(depth=config.depth, max_seq_len=128, vocab_size=config.vocab_size, window_pattern="L")
    with torch.device("meta"):
        model = GPT(shape, torch.float32, "sdpa")
    objective = NextTokenObjective(model.to_empty(device="cpu").init_weights(torch.Generator().manual_seed(0)))
    before = forget_peak()
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), PLAN))
    store, share = CheckpointStore(Path(config.folder)), sum(tensor.nbytes for tensor in optimizer.state_tensors().values())
    try:
        if config.part == "resume":
            runtime.barrier()
            begin = time.perf_counter()
            checkpoint = store.load(store.steps()[-1], processes=runtime)
            restore_module(objective, checkpoint.saved["model"])
            optimizer.load_state_tensors(checkpoint.saved["optimizer"])
            seconds, (after, peak) = time.perf_counter() - begin, memory()
            return {"seconds": seconds, "peak": (peak - before) / share, "after": (after - before) / share, "share_mb": share / 1e6}
        tensors = {"model": objective.state_dict() if runtime.rank == 0 else {}, "optimizer": optimizer.state_tensors()}
        found: dict[str, Any] = {"stall": [], "stall_background": [], "write": []}
        saves = BackgroundSaves(store, runtime.in_background())
        for step in range(1, SAVES + 1):
            runtime.barrier()
            begin = time.perf_counter()
            store.save(2 * step, tensors, {}, runtime)
            found["stall"].append(time.perf_counter() - begin)
            runtime.barrier()
            begin = time.perf_counter()
            saves.begin(store.snapshot(2 * step + 1, tensors, {}, runtime))
            found["stall_background"].append(time.perf_counter() - begin)
            ended = saves.wait()
            assert ended is not None
            if ended.error is not None:
                raise ended.error
            found["write"].append(ended.seconds)
        return {name: statistics.median(values) for name, values in found.items()}
    finally:
        runtime.close()


def in_processes(config: CheckpointCost, part: str, count: int, folder: Path) -> list[dict[str, Any]]:
    """What `count` processes measure, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    flags = [f"--part={part}", f"--folder={folder}", f"--depth={config.depth}", f"--vocab-size={config.vocab_size}"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.checkpoint_cost", *flags],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1", "NANOCHAT_DTYPE": "fp32"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"a process of {part} failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main(argv: list[str] | None = None) -> int:
    config = parse(CheckpointCost, argv)
    if config.part != "all":
        print(json.dumps(work(config)), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.folder or temporary) / "checkpoints"
        saved = in_processes(config, "save", config.processes, folder)
        newest = max(folder.glob("step_*"))
        result: dict[str, Any] = {
            "processes": config.processes,
            "checkpoint_mb": round(sum(path.stat().st_size for path in newest.iterdir()) / 1e6, 1),
            "stall_s": round(max(rank["stall"] for rank in saved), 2),
            "stall_in_background_s": round(max(rank["stall_background"] for rank in saved), 2),
            "write_in_background_s": round(max(rank["write"] for rank in saved), 2),
            "resumed": {},
        }
        for count in map(int, config.resumed_by.split(",")):
            ranks = in_processes(config, "resume", count, folder)
            most = {key: round(max(rank[key] for rank in ranks), 2) for key in ("seconds", "share_mb", "peak", "after")}
            result["resumed"][str(count)] = {"peak_over_share": most.pop("peak"), "after_over_share": most.pop("after"), **most}
        result["ok"] = all(one["peak_over_share"] <= MOST for one in result["resumed"].values())
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)
