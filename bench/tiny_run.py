"""Training processes that take a second: base_train with some fifty thousand parameters on a generated corpus."""

from __future__ import annotations

import random
import shutil
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.warm_start import Process, WarmStart
from nanochat.data.tokenizer import Tokenizer
from nanochat.tracking.sinks import read_metrics

TAG = "tiny"
SHAPE = ("--depth=2", "--aspect-ratio=16", "--head-dim=16", "--max-seq-len=32", "--device-batch-size=4", "--total-batch-size=256")
QUIET = ("--compile=0", "--device-type=cpu", "--log-every=1", "--eval-every=-1", "--sample-every=-1", f"--model-tag={TAG}")
# What two runs of the same training may differ in.
CLOCK = ("total_training_time", "train/dt", "train/tok_per_sec", "train/mfu", "train/peak_mem_mib", "train/time/", "train/slowest_rank")


def write_corpus(folder: Path, seed: int = 0, train: int = 120, val: int = 60) -> list[str]:
    """Writes text files of made-up words, about 600 letters each, with validation files in `val`; returns the training texts."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(80)]
    texts = [" ".join(rng.choices(words, k=rng.randint(40, 200))) + ".\n" for _ in range(train + val)]
    (folder / "val").mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / ("val" if number >= train else "") / f"{number:03d}.txt").write_text(text, encoding="ascii")
    return texts[:train]


@dataclass
class Home:
    """Base folder with a tokenizer, and the processes that train in it."""

    base: Path
    corpus: Path
    warm: WarmStart
    tag: str = TAG  # of the run that is looked at
    stage: str = "base"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.base / f"{self.stage}_checkpoints" / self.tag

    @property
    def metrics_file(self) -> Path:
        """Metrics file of the run."""
        return self.base / f"{self.stage}_runs" / self.tag / "metrics.jsonl"

    @property
    def argv(self) -> list[str]:
        """The tiny settings, as flags of `base_train`."""
        return [*SHAPE, *QUIET, f"--dataset={self.corpus}"]

    def start(self, *flags: str, environment: dict[str, str] | None = None, file_size_limit: int | None = None) -> Process:
        """Starts `base_train` with the tiny settings; `flags` override them."""
        argv = [*self.argv, *flags]
        surroundings = {"NANOCHAT_BASE_DIR": str(self.base), "NANOCHAT_DTYPE": "fp32", **(environment or {})}
        return self.warm.start("scripts.base_train", argv, surroundings, file_size_limit)

    def start_group(self, count: int, *flags: str, environment: dict[str, str] | None = None) -> list[Process]:
        """Starts the run in `count` processes that meet over loopback."""
        world = new_world(count) | (environment or {})
        return [self.start(*flags, environment=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]

    def run(self, module: str, *flags: str, environment: dict[str, str] | None = None) -> Process:
        """Runs another script to its end."""
        process = self.begin(module, *flags, environment=environment)
        process.wait()
        return process

    def begin(self, module: str, *flags: str, environment: dict[str, str] | None = None) -> Process:
        """Starts another script."""
        surroundings = {"NANOCHAT_BASE_DIR": str(self.base), "NANOCHAT_DTYPE": "fp32", **(environment or {})}
        return self.warm.start(module, list(flags), surroundings, None)

    def train(self, *flags: str, environment: dict[str, str] | None = None, file_size_limit: int | None = None) -> Process:
        """Runs `base_train` to its end; see `start`."""
        process = self.start(*flags, environment=environment, file_size_limit=file_size_limit)
        process.wait()
        return process

    def metrics(self) -> list[dict[str, Any]]:
        """Records so far; empty before the file exists."""
        return read_metrics(self.metrics_file) if self.metrics_file.exists() else []

    def figures(self) -> list[dict[str, Any]]:
        """Records without values that depend on the clock: equal for equal training."""
        return [{key: value for key, value in record.items() if not key.startswith(CLOCK)} for record in self.metrics()]

    def logged(self, step: int, key: str = "train/loss") -> bool:
        """True if `key` has been logged at `step` or later."""
        return any(record["step"] >= step and key in record for record in self.metrics())

    def saved_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.checkpoints.glob("step_*"))

    def tensors(self, step: int) -> dict[str, bytes]:
        """Bytes of the tensor files of a checkpoint: weights, optimizer and random generators."""
        files = sorted((self.checkpoints / f"step_{step:07d}").glob("*.safetensors"))
        assert files, f"no checkpoint of step {step} in {self.checkpoints}"
        return {path.name: path.read_bytes() for path in files}

    def assert_same_training(self, other: Home, step: int) -> None:
        """Both runs have logged the same and hold the same weights, optimizer and random generators, bit for bit."""
        assert self.figures() == other.figures()
        assert self.tensors(step) == other.tensors(step)

    def contents(self) -> dict[str, bytes]:
        """Contents of every file of the run, to detect changes."""
        roots = [*self.base.glob("*_checkpoints"), *self.base.glob("*_runs")]
        files = [path for root in roots for path in root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.base)): path.read_bytes() for path in files}

    def copy(self, base: Path) -> Home:
        """Copies the state to another folder."""
        shutil.copytree(self.base, base, dirs_exist_ok=True)
        return replace(self, base=base)


def new_world(count: int = 2) -> dict[str, str]:
    """Environment of `count` processes that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def make_corpus(folder: Path) -> Path:
    """Writes a corpus into `folder` and trains a tokenizer next to it; returns the folder of the corpus."""
    Tokenizer.train(write_corpus(folder / "corpus"), 300).save(folder / "tokenizer")
    return folder / "corpus"


def new_home(base: Path, corpus: Path, warm: WarmStart) -> Home:
    """Base folder at `base` with the tokenizer of `make_corpus` and nothing else."""
    shutil.copytree(corpus.parent / "tokenizer", base / "tokenizer")
    return Home(base, corpus, warm)
