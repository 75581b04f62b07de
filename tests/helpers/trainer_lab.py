"""A small run to train in a test: `Lab` makes its trainers. Import `loader`, `stop` and `lab`, which are fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.tiny_run import CLOCK, write_corpus
from nanochat.checkpoint.store import CheckpointStore
from nanochat.data.dataloader import RowLoader
from nanochat.data.rows import Loader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import DTYPES, Precision, Runtime
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.sinks import JsonlSink, MetricsLogger, read_metrics
from nanochat.train.callback import Callback, open_profilers
from nanochat.train.objective import NextTokenObjective, Objective, StepResult
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import ScheduleFlags, TrainPlan
from nanochat.train.trainer import Trainer, TrainerFlags
from tests.helpers.byte_tokenizer import ByteTokenizer

T, B, STEPS = 32, 256, 8  # tokens of a row, tokens of a step, steps of a run
CONFIG = GPTConfig(depth=2, aspect_ratio=16, head_dim=16, max_seq_len=T, window_pattern="L", vocab_size=257)
SCHEDULE = ScheduleFlags(warmup_steps=2, warmdown_ratio=0.5, final_lr_frac=0.1)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> RowLoader:
    """Rows of a small corpus."""
    folder = tmp_path_factory.mktemp("source") / "corpus"
    write_corpus(folder, train=40, val=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("base")))
        source = open_source(str(folder))
        return RowLoader(open_tokens(source, ByteTokenizer(), "train"), T, seed=1)


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Handlers of SIGTERM and SIGINT for the test."""
    signals = StopSignals()
    yield signals
    signals.close()


class Scripted(NextTokenObjective):
    """Next-token prediction in which `at` may do something at a step: it gets the step and the loss, and returns the loss."""

    def __init__(self, model: GPT, at: Callable[[int, Tensor], Tensor] = lambda step, loss: loss) -> None:
        super().__init__(model)
        self.at = at
        self.losses: dict[int, list[float]] = {}  # of the micro-batches, by step

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        step = round(progress * STEPS)
        loss = self.at(step, super().forward(tokens, targets, progress, weights).loss)
        self.losses.setdefault(step, []).append(loss.item())
        return StepResult(loss, {"mc/first_token": tokens[0, 0].float()})


@dataclass
class Lab:
    """Makes trainers of one run; each works in `folder` as a process of its own would."""

    folder: Path
    loader: Loader
    stop: StopSignals
    wrap: Callable[[GPT], Objective] = Scripted
    dtype: str = "fp32"

    def trainer(self, rows: int = 4, callbacks: Sequence[Callback] = (), **flags: Any) -> Trainer:
        """A trainer with micro-batches of `rows` that logs, profiles if asked to, and calls `callbacks`; `flags` are the trainer's."""
        torch.manual_seed(0)
        model = GPT(CONFIG, DTYPES[self.dtype]).init_weights(torch.Generator().manual_seed(0))
        objective = self.wrap(model)
        plan = TrainPlan(total_batch_size=B, num_iterations=STEPS, lr_scale=0.1, weight_decay_scale=0.1)
        trainer_flags = TrainerFlags(**{"device_batch_size": rows, "log_every": 1, "keep_checkpoints": -1} | flags)
        runtime = Runtime(torch.device("cpu"), Precision(DTYPES[self.dtype], "test"), "sdpa", False, 0, 1)
        return Trainer(
            objective=objective,
            optimizer=MuonAdamW(objective.parameter_groups(OptimFlags(), plan)),
            plan=plan,
            schedule=SCHEDULE,
            flags=trainer_flags,
            grad_clip=0.0,
            loader=self.loader,
            runtime=runtime,
            store=CheckpointStore(self.folder / "checkpoints", keep=-1),
            run_folder=self.folder,
            identity={"run": 1},
            meta={},
            stop=self.stop,
            open_metrics=self.open_metrics,
            callbacks=[*open_profilers(trainer_flags.profile_steps, STEPS, self.folder, runtime), *callbacks],
        )

    def open_metrics(self, resumed: int | None) -> MetricsLogger:
        """The metrics file, as base_train opens it."""
        return MetricsLogger([JsonlSink(self.folder / "metrics.jsonl", None if resumed is None else resumed - 1)])

    def metrics(self) -> list[dict[str, Any]]:
        """The records."""
        return read_metrics(self.folder / "metrics.jsonl")

    def figures(self) -> list[dict[str, Any]]:
        """The records without what depends on the clock."""
        return [{key: value for key, value in record.items() if not key.startswith(CLOCK)} for record in self.metrics()]

    def saved(self, step: int) -> dict[str, bytes]:
        """The bytes of a checkpoint's tensors."""
        return {path.name: path.read_bytes() for path in (self.folder / "checkpoints" / f"step_{step:07d}").glob("*.safetensors")}


@pytest.fixture
def lab(tmp_path: Path, loader: RowLoader, stop: StopSignals) -> Lab:
    """An empty folder to train in."""
    return Lab(tmp_path, loader, stop)


def another(lab: Lab, name: str) -> Lab:
    """The same run in another folder."""
    (lab.folder / name).mkdir()
    return Lab(lab.folder / name, lab.loader, lab.stop, lab.wrap, lab.dtype)
