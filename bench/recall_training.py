"""Training on rows that test recall, shared by the recall benchmarks.

Shapes: `B` rows, `T` tokens.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.recall_rows import Task, make_rows
from mc.config import MCConfig
from mc.train.controller import MCController
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.data.rows import Loader
from nanochat.model.cross_entropy import IGNORE
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import Runtime
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.sinks import JsonlSink, MetricsLogger
from nanochat.train.callback import Evaluation
from nanochat.train.objective import NextTokenObjective, Objective, StepResult
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import ScheduleFlags, TrainPlan
from nanochat.train.trainer import Trainer, TrainerFlags

DEPTH, WIDTH_PER_LAYER = 3, 42  # layers, rounded up to 128 channels


@dataclass(frozen=True)
class RecallRows(Loader):
    """Loader of rows of `task`, of which the first `early_rows` are of `early`."""

    task: Task
    seed: int
    early: Task | None = None
    early_rows: int = 0

    @property
    def seq_len(self) -> int:
        """Tokens per row: T."""
        return self.task.length

    def rows(self, a: int, b: int) -> np.ndarray:
        """int32 [b-a, T+1], a function of a and b."""
        task = self.early if self.early is not None and a < self.early_rows else self.task
        return make_rows(task, b - a, (self.seed, 0, a)).tokens.astype(np.int32)

    def epoch_of(self, row: int) -> int:
        """Always 0, as no row repeats."""
        return 0


class RecallController(MCController):
    """Controller trained on the values of the keys in the tail only. Variants are narrowest after `anneal` of the run."""

    def __init__(self, model: GPT, config: MCConfig, task: Task, seed: int, anneal: float) -> None:
        super().__init__(model, config, task.length, seed)
        self.task, self.anneal = task, anneal

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        return super().forward(tokens, asked_only(self.task, tokens, targets), min(1.0, progress / self.anneal))


class PlainRecall(NextTokenObjective):
    """Model without a memory, trained on the values of the keys in the tail only."""

    def __init__(self, model: GPT, task: Task) -> None:
        super().__init__(model)
        self.task = task

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        return super().forward(tokens, asked_only(self.task, tokens, targets), progress)


def asked_only(task: Task, tokens: Tensor, targets: Tensor) -> Tensor:
    """The targets [B,T] that are values of keys in the tail; the others are ignored."""
    place = torch.arange(task.length, device=tokens.device)
    value = (targets >= task.keys) & (targets < task.keys + task.values)
    return targets.where((tokens < task.keys) & value & (place >= task.length - task.tail), IGNORE)


def new_model(task: Task, head_dim: int, seed: int, runtime: Runtime) -> GPT:
    """Model of 3 layers and 128 channels for rows of `task`."""
    size = {
        "depth": DEPTH,
        "aspect_ratio": WIDTH_PER_LAYER,
        "head_dim": head_dim,
        "max_seq_len": task.length,
        "vocab_size": task.vocab_size,
    }
    shape = GPTConfig(**size, window_pattern="L")
    model = GPT(shape, runtime.precision.dtype, runtime.backend).init_weights(torch.Generator().manual_seed(seed))
    return model.use_kernels(compiled=False, chunked_ce=True)


def train(
    objective: Objective,
    loader: RecallRows,
    steps: int,
    batch: int,
    lr: float,
    runtime: Runtime,
    show: Callable[[Trainer], None],
    show_every: int,
) -> None:
    """Trains for `steps` of `batch` rows at `lr` times the nominal learning rates, calling `show` every `show_every` steps (−1 = never).

    Raises `UserError` if a signal stops it.
    """
    plan = TrainPlan(batch * loader.seq_len, steps, lr, 0.0)

    def measure(run: Trainer) -> dict:
        show(run)
        return {}

    with tempfile.TemporaryDirectory() as folder, contextlib.closing(StopSignals()) as stop:
        trainer = Trainer(
            objective=objective,
            optimizer=MuonAdamW(objective.parameter_groups(OptimFlags(), plan), runtime.muon_dtype),
            plan=plan,
            schedule=ScheduleFlags(),
            flags=TrainerFlags(device_batch_size=batch, log_every=50, resume="never"),
            grad_clip=0.0,
            loader=loader,
            runtime=runtime,
            store=CheckpointStore(Path(folder) / "checkpoints"),
            run_folder=Path(folder),
            identity={},
            meta={},
            stop=stop,
            open_metrics=lambda _: MetricsLogger([JsonlSink(Path(folder) / "metrics.jsonl")]),
            callbacks=[Evaluation(measure, show_every)],
        )
        if not trainer.run():
            raise UserError(f"stopped by {stop.requested} at step {trainer.state.step} of {steps}; nothing is kept, run it again")
