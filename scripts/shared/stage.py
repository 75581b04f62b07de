"""Stage builder: sets up the process and the trainer of a training stage (base, mid, SFT, RL), trains and reports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mc.auto_batch import choose_micro_batch
from mc.eval.metric_bounds import bounds_for
from mc.telemetry.provider import NoOpTelemetryProvider, TelemetryFlags, TelemetryProvider
from mc.telemetry.training import TrainingEvents
from mc.train.controller import MCController
from nanochat.checkpoint.load_model import Stage
from nanochat.checkpoint.processes import together
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, ensure_dir, source_digest
from nanochat.data.rows import Loader
from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import flag, flat_values, part
from nanochat.model.gpt import GPTConfig
from nanochat.model.recompute import ActivationCheckpointing
from nanochat.process import outlive_readers
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.redaction import redact_all
from nanochat.report.sections import MEMORY, section
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.runtime.elastic import leave_unfinished
from nanochat.runtime.folder_lock import FolderLock, hold
from nanochat.runtime.peers import agree
from nanochat.runtime.shared_folder import check_shared
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.run_log import METRICS_FILE, open_metrics, wandb_name
from nanochat.train.agreement import agree_on_weights
from nanochat.train.callback import open_profilers
from nanochat.train.objective import Objective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import ScheduleFlags, TrainPlan
from nanochat.train.sharded_model import shard_model
from nanochat.train.sharded_optim import ShardedMuonAdamW
from nanochat.train.trainer import Trainer, TrainerFlags

SECTIONS: dict[Stage, str] = {"base": "base_training", "mid": "mid_training", "sft": "chat_sft", "rl": "chat_rl"}  # of the report


@dataclass
class StageFlags:
    """Flags of all stages."""

    run: str = flag("dummy", "name of the W&B run; dummy = no W&B")
    chunked_ce: bool = flag(True, "compute the loss in chunks, without ever holding all logits")
    shard_model: bool = flag(False, "shard weights and gradients over the processes (FSDP2), for models that do not fit whole")
    recompute: ActivationCheckpointing = part(ActivationCheckpointing)
    runtime: RuntimeFlags = part(RuntimeFlags)
    optim: OptimFlags = part(OptimFlags)
    schedule: ScheduleFlags = part(ScheduleFlags)
    trainer: TrainerFlags = part(TrainerFlags)
    telemetry: TelemetryFlags = part(TelemetryFlags)

    def record(self) -> dict[str, Any]:
        """The flags as JSON, for readers of the run."""
        return dataclasses.asdict(self)

    def common(self) -> dict[str, Any]:
        """The flags that all processes must have in common: not where data lie, whose fingerprint counts, and who looks on."""
        own = {"dataset", "run", *flat_values(self.telemetry)}
        return {name: value for name, value in flat_values(self).items() if name not in own}


def check_shardable(args: StageFlags, memory: bool) -> None:
    """Raises `ValueError` if the model is to be sharded and has a `memory`."""
    if args.shard_model and memory:
        raise ValueError("shard_model is on, but a memory reads weights that are then elsewhere; leave --shard-model or the memory out")


@contextlib.contextmanager
def started(args: StageFlags) -> Iterator[tuple[Runtime, StopSignals]]:
    """The process of a stage: signals, device and process group, and the check that all processes are about to do the same.

    Raises `UserError` if they are not, if the device is not available, or, in place of the error of a broken connection, if
    another process is lost.
    """
    stop = StopSignals()
    outlive_readers()
    runtime = start(args.runtime)
    if args.shard_model and runtime.world_size == 1:
        raise UserError("--shard-model splits the weights over processes, and there is one; use torchrun --nproc-per-node, or leave it out")
    with runtime.watch():
        if runtime.world_size > 1:
            check_shared(base_dir(), runtime.rank)
            versions = {"nanochat's source code": source_digest(), "torch": torch.__version__}
            agree(versions, "install the same version on all machines")
            agree(args.common() | {"precision": runtime.precision.name}, "start all processes with the same command and environment")
        runtime.say(runtime.describe())
        yield runtime, stop


@contextlib.contextmanager
def locked(stage: Stage, tag: str, runtime: Runtime) -> Iterator[FolderLock | None]:
    """Holds the lock on the run's folders, in the first process. Raises `UserError` in all if another run has it."""
    folder = base_dir() / f"{stage}_runs" / tag
    with contextlib.ExitStack() as stack:
        with together(runtime, f"lock {folder}"):
            lock = None if runtime.rank else stack.enter_context(hold(folder, runtime.say, "or use another --model-tag"))
        yield lock


@dataclass
class StageRun:
    """A run of a stage: its flags, its process, and the model (and memory) to train."""

    stage: Stage
    tag: str  # name of the run's folders
    args: StageFlags
    runtime: Runtime
    stop: StopSignals
    lock: FolderLock | None  # on the folders of this tag; of the first process
    tokenizer: Tokenizer
    objective: Objective
    telemetry: TelemetryProvider

    @property
    def memory(self) -> bool:
        """Whether a memory is trained with the model."""
        return isinstance(self.objective, MCController)

    @property
    def wandb_name(self) -> str | None:
        """Name of the W&B run, if any."""
        return wandb_name(self.args.run, self.memory)

    @property
    def record(self) -> dict[str, Any]:
        """The flags as JSON, without secrets."""
        return redact_all(self.args.record())

    def build(
        self,
        loader: Loader,
        plan: TrainPlan,
        rows: int,
        origin: Mapping[str, Any],
        settings: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> Trainer:
        """The trainer, without evaluations, with micro-batches of `rows` rows, or fewer if there is a memory.

        `origin` (the source of the weights) and `settings` are the stage's part of the run's identity.
        """
        args, runtime, objective = self.args, self.runtime, self.objective
        groups, optimizer = objective.parameter_groups(args.optim, plan), MuonAdamW
        if args.shard_model:
            agree_on_weights(objective.parameters(), runtime)
            shard_model(objective, groups, runtime)
            groups, optimizer = objective.parameter_groups(args.optim, plan), ShardedMuonAdamW
        if isinstance(objective, MCController):
            rows = choose_micro_batch(objective, rows, plan.total_batch_size, runtime, runtime.say)
        folder = ensure_dir(base_dir() / f"{self.stage}_runs" / self.tag)
        identity = {
            **dataclasses.asdict(objective.model.config),
            "tokenizer": self.tokenizer.fingerprint,
            **origin,
            "total_batch_size": plan.total_batch_size,
            "num_iterations": plan.num_iterations,
            "seed": args.trainer.seed,
            **settings,
            "data": loader.fingerprint,  # after what it depends on: the error names the first difference
            **dataclasses.asdict(args.optim),
            **dataclasses.asdict(args.schedule),
        }
        return Trainer(
            objective=objective,
            optimizer=optimizer(groups, runtime.muon_dtype, compiled=runtime.compile and runtime.device.type == "cuda"),
            plan=plan,
            schedule=args.schedule,
            flags=dataclasses.replace(args.trainer, device_batch_size=rows),
            grad_clip=args.optim.grad_clip,
            loader=loader,
            runtime=runtime,
            store=CheckpointStore(base_dir() / f"{self.stage}_checkpoints" / self.tag, args.trainer.keep_checkpoints),
            run_folder=folder,
            identity=identity,
            defaults=dataclasses.asdict(GPTConfig()) | flat_values(type(args)()),
            meta=meta,
            stop=self.stop,
            lock=self.lock,
            open_metrics=partial(
                open_metrics,
                folder=folder,
                steps=plan.num_iterations,
                identity=identity,
                record=self.record,
                wandb_name=self.wandb_name,
                rank=runtime.rank,
                **bounds_for(objective, plan.total_batch_size // loader.seq_len),
            ),
            callbacks=[
                *([] if isinstance(self.telemetry, NoOpTelemetryProvider) else [TrainingEvents(self.telemetry)]),
                *open_profilers(args.trainer.profile_steps, plan.num_iterations, folder, runtime),
            ],
        )

    def train(self, trainer: Trainer) -> bool:
        """Trains to the end or to a stop signal; returns whether this process has a finished run to report."""
        finished, step, steps = trainer.run(), trainer.state.step, trainer.plan.num_iterations
        if not finished:
            why = self.stop.requested or "a signal to another process"
            self.runtime.say(f"stopped by {why} after step {step} of {steps}; run again to continue")
            leave_unfinished(self.stop)
        return finished and self.runtime.rank == 0

    def report(self, trainer: Trainer, values: Mapping[str, Any]) -> None:
        """Writes the stage's section of the report, with `values` in it."""
        section(
            SECTIONS[self.stage] + MEMORY * self.memory,
            {
                "model tag": self.tag,
                **values,
                "final training loss": trainer.state.loss.value,
                "peak memory MiB": peak_memory_mib(self.runtime.device),
                **({"W&B run": self.wandb_name} if self.wandb_name else {}),
                "metrics_file": str(trainer.run_folder / METRICS_FILE),
            },
        )
