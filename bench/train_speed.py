"""Training speed at one shape, compared with karpathy/nanochat if `--nanochat` is a checkout of it.

Every side is a process of its own; they take turns, so that other load on the machine affects all of them. The first step includes
compiling: cold with an empty compile cache, warm with that of the previous process. In the end our side trains beside a process that
keeps one core busy.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from nanochat import flags
from nanochat.common import ROOT, UserError
from nanochat.flags import flag

NOT_SHAPE = ("nanochat", "rounds", "steps", "busy")
KARPATHY_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass
class TrainSpeed:
    """Measure training tokens/s, the first step cold and warm, and memory."""

    depth: int = flag(4, "layers", unit="layers")
    head_dim: int = flag(64, "size of an attention head", unit="channels")
    max_seq_len: int = flag(512, "length of a row", unit="tokens")
    vocab_size: int = flag(8192, "vocabulary size", unit="tokens")
    device_batch_size: int = flag(8, "micro-batch size", unit="rows")
    total_batch_size: int = flag(8192, "tokens per step", unit="tokens")
    window_pattern: str = flag("auto", "window pattern; auto = L for karpathy/nanochat")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = flag("auto", "compute dtype of our side")
    device_type: str = flag("auto", "cuda, cpu or auto")
    attention: str = flag("auto", "attention backend of our side")
    compile: bool = flag(True, "compile our side")
    rounds: int = flag(5, "turns of every side")
    steps: int = flag(4, "steps per turn", unit="steps")
    busy: bool = flag(True, "also measure beside one busy core")
    nanochat: str = flag("", "checkout of karpathy/nanochat to compare with, unchanged and with bf16 forced")

    def __post_init__(self) -> None:
        if self.total_batch_size % (self.device_batch_size * self.max_seq_len):
            raise ValueError("total_batch_size must be a multiple of device_batch_size × max_seq_len")
        if min(self.rounds, self.steps) < 1:
            raise ValueError("rounds and steps must be at least 1")
        if self.nanochat and not (Path(self.nanochat) / "nanochat" / "gpt.py").is_file():
            raise ValueError(f"nanochat: {self.nanochat} has no nanochat/gpt.py")


class Side:
    """Worker process with its steps so far."""

    def __init__(self, config: TrainSpeed, name: str, cache: Path, path: Path, dtype: str, **variables: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        environment.pop("NANOCHAT_DTYPE", None)
        side = "ours" if path == ROOT else "karpathy"
        if side == "karpathy":
            environment.pop("GOMP_SPINCOUNT", None)  # our own way, which this process has been started in
        if dtype != "auto":
            environment["NANOCHAT_DTYPE"] = dtype if side == "ours" else KARPATHY_DTYPE[dtype]
        options = {k: v for k, v in vars(config).items() if k not in ("dtype", *NOT_SHAPE)}
        arguments = [f"--{k.replace('_', '-')}={int(v) if isinstance(v, bool) else v}" for k, v in options.items()]
        command = [sys.executable, str(ROOT / "bench" / "speed_worker.py"), f"--side={side}", f"--path={path}", *arguments]
        self.process = subprocess.Popen(command, env=environment | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, steps: int) -> dict[str, Any]:
        """Runs `steps` steps and returns the worker's answer. Raises `UserError` if it died."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: the worker ended with code {self.process.wait()}; its messages are above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def main(argv: list[str] | None = None) -> int:
    """Measures, and prints a table and one line of JSON."""
    config = flags.parse(TrainSpeed, argv)
    rivals = {"karpathy": "auto", "karpathy_bf16": "bf16"} if config.nanochat else {}
    result: dict[str, Any] = {"shape": {k: v for k, v in vars(config).items() if k not in NOT_SHAPE}}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: Path(folder) / name for name in ("ours", *rivals)}
        cold = Side(config, "ours", caches["ours"], ROOT, config.dtype)
        result["first_step_cold_s"] = cold.run(1)["seconds"][0]
        cold.close()
        sides = [Side(config, "ours", caches["ours"], ROOT, config.dtype)]
        result["first_step_warm_s"] = sides[0].run(1)["seconds"][0]
        for name, dtype in rivals.items():
            sides.append(Side(config, name, caches[name], Path(config.nanochat).resolve(), dtype))
            result[f"{name}_first_step_cold_s"] = sides[-1].run(1)["seconds"][0]
        for side in sides:
            side.run(2)  # warm-up: clocks, caches, allocator
        for _ in range(config.rounds):
            for side in sides:
                answer = side.run(config.steps)
                side.seconds += answer["seconds"]
                if side.name == "ours":
                    result["peak_mem_mib"], flops = answer["peak_mem_mib"], answer["flops_per_token"]
        quiet = config.total_batch_size / median(sides[0].seconds)
        if config.busy:
            with busy_core():
                sides[0].run(1)
                seconds = [second for _ in range(config.rounds) for second in sides[0].run(config.steps)["seconds"]]
            result["busy_tokens_per_s"] = config.total_batch_size / median(seconds)
            result["busy_share"] = result["busy_tokens_per_s"] / quiet
        for side in sides:
            side.close()
    rates = {side.name: config.total_batch_size / median(side.seconds) for side in sides}
    for side in sides:
        low, high = (config.total_batch_size / f(side.seconds) for f in (max, min))
        print(f"{side.name:14s} {rates[side.name]:9,.0f} tokens/s (slowest step {low:,.0f}, fastest {high:,.0f})")
    if config.busy:
        print(f"{'ours, busy':14s} {result['busy_tokens_per_s']:9,.0f} tokens/s beside one busy core")
    result["tokens_per_s"] = rates["ours"]
    result["flops_per_s"] = rates["ours"] * flops
    result |= {f"{name}_tokens_per_s": rates[name] for name in rivals}
    result |= {f"vs_{name}": rates["ours"] / rates[name] for name in rivals}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))
    return 0


if __name__ == "__main__":
    flags.run(main)
