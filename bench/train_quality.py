"""Bits per byte after equal training time, compared with karpathy/nanochat on the same validation documents.

Both train with their own base_train on the same local corpus with the same tokenizer, for as many steps as fit into the time at
the pace of a short run. Compiling and evaluating do not count as training.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat import flags
from nanochat.common import ROOT, UserError, base_dir
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import flag
from nanochat.tracking.sinks import read_metrics

SHAPE = {"depth": 4, "head-dim": 64, "max-seq-len": 512, "device-batch-size": 8, "total-batch-size": 8192, "window-pattern": "L"}
VOCAB_SIZE = 8192
PROBE_STEPS = 24  # their pace comes from the last few of these


@dataclass
class TrainQuality:
    """Measure bits per byte after a given time of training."""

    minutes: float = flag(5.0, "training time of each side", unit="minutes")
    nanochat: str = flag("", "checkout of karpathy/nanochat to compare with")
    nanochat_dtype: str = flag("bfloat16", "its compute dtype; float32 is its own choice on a CPU")
    train_flags: str = flag("", "further flags for our base_train, separated by spaces")

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}; it must be positive")


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Runs `command` and returns its output. Raises `UserError` if it failed."""
    result = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"{' '.join(command[:4])} … ended with code {result.returncode}: {(result.stderr or result.stdout)[-400:]}")
    return result.stdout


def train_ours(config: TrainQuality, home: Path) -> dict[str, Any]:
    """Trains with `scripts.base_train` and returns its final metrics."""

    def train(steps: int, tag: str) -> list[dict[str, Any]]:
        options = {**SHAPE, "num-iterations": steps, "model-tag": tag, "log-every": 1, "eval-every": 10**9, "eval-tokens": 10**9}
        options |= {"sample-every": -1, "dataset": "local"}
        arguments = [f"--{k}={v}" for k, v in options.items()] + config.train_flags.split()
        run([sys.executable, "-m", "scripts.base_train", *arguments], ROOT, {"NANOCHAT_BASE_DIR": str(home)})
        return read_metrics(home / "base_runs" / tag / "metrics.jsonl")

    pace = float(np.median([r["train/dt"] for r in train(PROBE_STEPS, "probe")[4:] if "train/dt" in r]))
    records = train(max(1, int(config.minutes * 60 / pace)), "quality")
    seconds = sum(r["train/dt"] for r in records[1:] if "train/dt" in r)  # the first step compiles
    return {"bpb": records[-1]["val/bpb"], "steps": records[-1]["step"], "seconds": seconds}


def train_karpathy(config: TrainQuality, home: Path, exchange: Path) -> dict[str, Any]:
    """Trains with that project's base_train in `home` and evaluates its checkpoint on the exchanged rows."""
    checkout = home / "checkout"
    shutil.copytree(config.nanochat, checkout, ignore=shutil.ignore_patterns(".git"))
    for package in ("scripts", "tasks"):  # without these files Python would take a package of that name of ours
        (checkout / package / "__init__.py").touch()
    path = os.pathsep.join((str(checkout), str(ROOT)))  # its nanochat comes first; ours has the rustbpe that it imports
    environment = {"NANOCHAT_BASE_DIR": str(home), "NANOCHAT_DTYPE": config.nanochat_dtype, "PYTHONPATH": path}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(home / "cache")
    worker = [sys.executable, str(ROOT / "bench" / "karpathy_worker.py")]
    run([*worker, "prepare", str(exchange)], checkout, environment)

    def train(steps: int) -> list[float]:
        options = {**SHAPE, "num-iterations": steps, "eval-every": -1, "core-metric-every": -1, "sample-every": -1, "run": "dummy"}
        printed = run([sys.executable, "-m", "scripts.base_train", *(f"--{k}={v}" for k, v in options.items())], checkout, environment)
        return [float(ms) / 1e3 for ms in re.findall(r"\| dt: ([0-9.]+)ms", printed)]

    pace = float(np.median(train(PROBE_STEPS)[4:]))
    seconds = train(max(1, int(config.minutes * 60 / pace)))
    bpb = json.loads(run([*worker, "evaluate", str(exchange)], checkout, environment).splitlines()[-1])["bpb"]
    return {"bpb": bpb, "steps": len(seconds), "seconds": sum(seconds[1:])}


def exchange_tokenizer(tokenizer: Tokenizer, exchange: Path) -> None:
    """Writes the tokenizer for the other side."""
    encoding = tokenizer.to_tiktoken()
    ordinary = tokenizer.vocab_size - len(tokenizer.special_tokens)
    tokens = [base64.b64encode(encoding.decode_single_token_bytes(i)).decode() for i in range(ordinary)]
    description = {"tokens": tokens, "pattern": encoding._pat_str, "special": tokenizer.special_tokens}
    description["token_bytes"] = tokenizer.token_bytes().tolist()
    (exchange / "tokenizer.json").write_text(json.dumps(description))


def main(argv: list[str] | None = None) -> int:
    """Trains both, and prints a table and one line of JSON."""
    config = flags.parse(TrainQuality, argv)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, exchange = (Path(folder) / name for name in ("ours", "theirs", "exchange"))
        exchange.mkdir()
        os.environ["NANOCHAT_BASE_DIR"] = str(ours)
        source = open_source("local")
        tokenizer = Tokenizer.train(source.documents("train"), VOCAB_SIZE)
        tokenizer.save(base_dir() / "tokenizer")
        val = RowLoader(open_tokens(source, tokenizer, "val"), SHAPE["max-seq-len"], shuffle=False)
        result: dict[str, Any] = {"minutes": config.minutes, "ours": train_ours(config, ours)}
        print(f"ours: {result['ours']}", flush=True)
        if config.nanochat:
            np.save(exchange / "rows.npy", val.rows(0, val.rows_per_epoch))
            exchange_tokenizer(tokenizer, exchange)
            data = theirs / "base_data_climbmix"
            data.mkdir(parents=True)
            for name, split in (("shard_00000.parquet", "train"), ("shard_06542.parquet", "val")):
                (data / name).symlink_to(ours / "data" / "local" / f"{split}.parquet")
            result["karpathy"] = train_karpathy(config, theirs, exchange)
            print(f"karpathy: {result['karpathy']}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    flags.run(main)
