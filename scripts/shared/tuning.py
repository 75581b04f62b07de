"""Stages after base training: their flags, the checkpoint they start from, and their run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mc.loading import has_memory, restore
from mc.telemetry.provider import NoOpTelemetryProvider, TelemetryFlags, TelemetryProvider, open_telemetry
from mc.train.controller import MCController
from nanochat.checkpoint.load_model import TRAINED_BY, Stage, Trained, check_tag, latest_stage, load_weights_into, newest_tag, open_trained
from nanochat.common import UserError
from nanochat.data.rows import Loader
from nanochat.flags import check, flag, part
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import Runtime
from nanochat.runtime.folder_lock import FolderLock
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.run_log import MC_SUFFIX
from nanochat.train.objective import NextTokenObjective, Objective
from nanochat.train.optim import OptimFlags
from nanochat.train.schedule import BATCH_REFERENCE, ScheduleFlags, TrainPlan
from nanochat.train.trainer import Trainer, TrainerFlags
from scripts.shared.stage import StageFlags, StageRun, check_shardable, locked, started

# The stages that a stage may start from, the latest first.
BEFORE: dict[Stage, tuple[Stage, ...]] = {"mid": ("base",), "sft": ("mid", "base"), "rl": ("sft", "mid", "base")}


@dataclass
class TuningOptim(OptimFlags):
    """Optimizer defaults of the stages after base training."""

    lr_mult: float = flag(0.5, "multiplies all learning rates", unit="×")
    # The scaling law uses the tokens of a whole pretraining; for a run of few tokens it would be huge.
    weight_decay: float = flag(0.0, "weight decay of the matrices")


@dataclass
class TuningSchedule(ScheduleFlags):
    """Schedule defaults of the stages after base training."""

    warmup_steps: int = flag(10, "steps of linear warm-up", unit="steps")
    final_lr_frac: float = flag(0.0, "final learning rate as a fraction of the peak", unit="of the peak")


@dataclass
class TuningTrainer(TrainerFlags):
    """Trainer defaults of the stages after base training."""

    device_batch_size: int = flag(-1, "micro-batch size per process; -1 = as in base training", unit="rows")

    def __post_init__(self) -> None:
        given = self.device_batch_size
        if given == -1:
            self.device_batch_size = 1
        super().__post_init__()
        self.device_batch_size = given


@dataclass
class Tuning(StageFlags):
    """Flags of all stages after base training."""

    model_tag: str | None = flag(None, "name of the checkpoint folder, of the source and of the result; None = newest", alias=("-g",))
    source: Literal["auto", "base", "mid", "sft"] = flag("auto", "stage to start from; auto = the latest before this one", alias=("-i",))
    step: int | None = flag(None, "step of the checkpoint to start from; None = newest", alias=("-s",))
    mc_enabled: bool = flag(False, "start from a model that was trained with --mc, and train its memory too", alias=("mc",))
    num_iterations: int = flag(-1, "optimizer steps; -1 = derive from epochs", unit="steps")
    optim: TuningOptim = part(TuningOptim)
    schedule: TuningSchedule = part(TuningSchedule)
    trainer: TuningTrainer = part(TuningTrainer)

    def __post_init__(self) -> None:
        check_tag(self, "model_tag")
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "num_iterations")


@dataclass
class TuningRun(StageRun):
    """A run that starts from the checkpoint `trained` of the stage `source`."""

    source: Stage
    trained: Trained

    @property
    def model(self) -> GPT:
        """The model being trained."""
        return self.objective.model

    @property
    def device_batch_size(self) -> int:
        """Rows in a micro-batch without a memory."""
        given = self.args.trainer.device_batch_size
        return self.trained.meta["recipe"]["trainer"]["device_batch_size"] if given == -1 else given

    def plan(self, total_batch_size: int, num_iterations: int) -> TrainPlan:
        """The plan; learning rates scale with the batch as in base training."""
        scale = (total_batch_size / BATCH_REFERENCE) ** 0.5
        return TrainPlan(total_batch_size, num_iterations, scale, scale)

    def trainer(self, loader: Loader, plan: TrainPlan, rows: int, settings: Mapping[str, Any]) -> Trainer:
        """The trainer; see `StageRun.build`."""
        checkpoint, meta = self.trained.checkpoint, self.trained.meta
        # "recipe" stays that of base training, which the metrics of later stages are compared with.
        kept = {name: meta[name] for name in ("model_config", "tokenizer", "recipe", "mc_config") if name in meta}
        trainer = self.build(
            loader,
            plan,
            rows,
            origin={"source": self.source, "source_step": checkpoint.step, "source_weights": checkpoint.digest},
            settings=settings,
            meta={**kept, "fine_tuning": {**meta.get("fine_tuning", {}), self.stage: self.record}},
        )
        self.runtime.say(
            f"{self.stage}: {self.tag}, from {self.source} step {checkpoint.step}; "
            f"{plan.num_iterations:,} steps × {plan.total_batch_size:,} tokens"
        )
        return trainer

    def finish(self, trainer: Trainer, values: Mapping[str, Any]) -> None:
        """Trains to the end and reports with `values`."""
        if self.train(trainer):
            source = {"starts from": f"{self.source}, step {self.trained.checkpoint.step}"}
            steps = {"steps": trainer.state.step, "tokens per step": trainer.plan.total_batch_size}
            self.report(trainer, {**source, **steps, **values, "seconds in steps": trainer.state.seconds})
        self.runtime.close()


@contextlib.contextmanager
def begin(args: Tuning, stage: Stage) -> Iterator[TuningRun]:
    """Starts the process of a stage, loads its model and locks its folders; see `locked`. Raises `UserError` if there is no model."""
    with started(args) as (runtime, stop):
        source, trained = open_source(args, stage, runtime.say)
        try:
            check_shardable(args, has_memory(trained.meta))
        except ValueError as error:
            raise UserError(str(error)) from error
        with locked(stage, trained.folder.name, runtime) as lock:
            yield _load(args, stage, runtime, stop, lock, source, trained)


def _load(
    args: Tuning, stage: Stage, runtime: Runtime, stop: StopSignals, lock: FolderLock | None, source: Stage, trained: Trained
) -> TuningRun:
    """The run, with its model and memory on the device."""
    memory = has_memory(trained.meta)
    telemetry = stage_telemetry(args.telemetry, memory, runtime)
    model = GPT(GPTConfig(**trained.meta["model_config"]), runtime.precision.dtype, runtime.backend)
    torch.manual_seed(args.trainer.seed + runtime.rank)  # for objectives that draw random numbers
    load_weights_into(model, trained)
    if not args.shard_model:  # else each layer is moved when it is sharded
        model.to(runtime.device)
    model.use_kernels(runtime.compile, args.chunked_ce, recompute=args.recompute)
    objective: Objective = NextTokenObjective(model)
    if memory:
        options = {"seed": args.trainer.seed, "rank": runtime.rank, "world_size": runtime.world_size}
        objective = restore(trained, model, MCController, annealed=True, pretrained=True, **options)
        objective.use_kernels(runtime.compile)
    return TuningRun(stage, trained.folder.name, args, runtime, stop, lock, trained.tokenizer, objective, telemetry, source, trained)


def stage_telemetry(telemetry: TelemetryFlags, memory: bool, runtime: Runtime) -> TelemetryProvider:
    """Opens telemetry, if the model has a memory. Raises `UserError` if a flag or variable is invalid for such a model."""
    if memory:
        return open_telemetry(telemetry, say=runtime.say, rank=runtime.rank)
    try:
        telemetry.check_unused()
    except ValueError as error:
        raise UserError(str(error)) from error
    return NoOpTelemetryProvider()


def open_source(args: Tuning, stage: Stage, say: Callable[[str], None]) -> tuple[Stage, Trained]:
    """The stage and the checkpoint that a run starts from. Raises `UserError` if there is none that fits."""
    before, tag, ending = BEFORE[stage], args.model_tag, MC_SUFFIX * args.mc_enabled
    if args.source not in ("auto", *before):
        raise UserError(f"source is {args.source}, but {TRAINED_BY[stage]} starts from {' or '.join(before)}; give another --source")
    if args.mc_enabled and tag is not None:
        tag = tag.removesuffix(MC_SUFFIX) + MC_SUFFIX
    source = latest_stage(tag, before if args.source == "auto" else (args.source,), ending)
    trained = open_trained(source, tag or newest_tag(source, ending), args.step, say)
    if args.mc_enabled and not has_memory(trained.meta):
        raise UserError(f"{trained.name} was trained without a memory; leave --mc out, or train one with python -m scripts.base_train --mc")
    return source, trained
