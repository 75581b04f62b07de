"""What all stages after base training share: the checkpoint they start from, and a trainer around its model and its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mc.auto_batch import choose_micro_batch
from mc.eval.metric_bounds import watched
from mc.loading import has_memory, restore_controller
from mc.telemetry.provider import TelemetryFlags, open_telemetry
from mc.telemetry.training import watch_training
from nanochat.checkpoint.load_model import TRAINED_BY, Stage, Trained, latest_stage, load_weights_into, newest_tag, open_trained
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, ensure_dir
from nanochat.data.rows import Loader
from nanochat.flags import flag, part
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.redaction import redact_all
from nanochat.report.sections import MEMORY, section
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.runtime.signals import StopSignals, outlive_readers
from nanochat.tracking.run_log import MC_SUFFIX, METRICS_FILE, open_metrics, wandb_name
from nanochat.train.objective import NextTokenObjective, Objective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import BATCH_REFERENCE, ScheduleFlags, TrainPlan
from nanochat.train.trainer import Trainer, TrainerFlags

# What a stage starts from, the latest first.
BEFORE: dict[Stage, tuple[Stage, ...]] = {"mid": ("base",), "sft": ("mid", "base"), "rl": ("sft", "mid", "base")}
SECTIONS: dict[Stage, str] = {"mid": "mid_training", "sft": "chat_sft", "rl": "chat_rl"}  # of the report


@dataclass
class TuningOptim(OptimFlags):
    lr_mult: float = flag(0.5, "multiplies all rates", unit="×")
    # The law for it goes by the tokens of a whole pretraining; for a run of few tokens it would be huge.
    weight_decay: float = flag(0.0, "weight decay of the matrices")


@dataclass
class TuningSchedule(ScheduleFlags):
    warmup_steps: int = flag(10, "steps of linear warm-up", unit="steps")
    final_lr_frac: float = flag(0.0, "what they fall to", unit="of the peak")


@dataclass
class TuningTrainer(TrainerFlags):
    device_batch_size: int = flag(-1, "rows in a micro-batch of one process; -1 = as in base training", unit="rows")

    def __post_init__(self) -> None:
        given = self.device_batch_size
        if given == -1:
            self.device_batch_size = 1
        super().__post_init__()
        self.device_batch_size = given


@dataclass
class Tuning:
    """What the stages are told alike."""

    run: str = flag("dummy", "name of the W&B run; dummy = no W&B")
    model_tag: str | None = flag(
        None, "name of the checkpoint folder, of the model to start from and of the new one; None = the newest", alias=("-g",)
    )
    source: Literal["auto", "base", "mid", "sft"] = flag("auto", "stage to start from; auto = the latest before this one", alias=("-i",))
    step: int | None = flag(None, "step of the checkpoint to start from; None = the newest", alias=("-s",))
    mc_enabled: bool = flag(False, "start from a model that was trained with --mc, and train its memory too", alias=("mc",))
    telemetry: TelemetryFlags = part(TelemetryFlags)
    num_iterations: int = flag(-1, "steps; -1 = from the epochs", unit="steps")
    chunked_ce: bool = flag(True, "compute the loss in chunks that never hold all logits")
    runtime: RuntimeFlags = part(RuntimeFlags)
    optim: TuningOptim = part(TuningOptim)
    schedule: TuningSchedule = part(TuningSchedule)
    trainer: TuningTrainer = part(TuningTrainer)

    def __post_init__(self) -> None:
        if self.num_iterations < 1 and self.num_iterations != -1:
            raise ValueError(f"num_iterations is {self.num_iterations}; give at least 1, or -1")


@dataclass
class Begun:
    """A stage that has begun: the process, the checkpoint it starts from, and its model, to be trained on."""

    recipe: Tuning
    stage: Stage
    runtime: Runtime
    stop: StopSignals
    origin: Stage
    trained: Trained
    model: GPT
    say: Callable[[str], None]

    @property
    def tag(self) -> str:
        """Name of the checkpoint folders."""
        return self.trained.folder.name

    @property
    def memory(self) -> bool:
        """Whether the model has one, which is then trained too."""
        return has_memory(self.trained.meta)

    @property
    def device_batch_size(self) -> int:
        """Rows in a micro-batch without a memory."""
        given = self.recipe.trainer.device_batch_size
        return self.trained.meta["recipe"]["trainer"]["device_batch_size"] if given == -1 else given

    @property
    def run_folder(self) -> Path:
        """Of the metrics."""
        return base_dir() / f"{self.stage}_runs" / self.tag

    def plan(self, total_batch_size: int, num_iterations: int) -> TrainPlan:
        """The rates go by the batch as in base training."""
        scale = (total_batch_size / BATCH_REFERENCE) ** 0.5
        return TrainPlan(total_batch_size, num_iterations, scale, scale)

    def trainer(self, loader: Loader, plan: TrainPlan, rows: int, identity: dict[str, Any]) -> Trainer:
        """The trainer of the model, and of its memory where it has one, in micro-batches of about `rows` rows.

        `identity` is what the stage adds to what makes its run this run.
        """
        recipe, trained, runtime = self.recipe, self.trained, self.runtime
        objective: Objective = NextTokenObjective(self.model)
        if self.memory:
            objective = restore_controller(trained, self.model, seed=recipe.trainer.seed, rank=runtime.rank, annealed=True)
            objective.use_kernels(runtime.compile)
            rows = choose_micro_batch(objective, rows, plan.total_batch_size, runtime, self.say)
        groups = objective.parameter_groups(recipe.optim, plan)
        record = redact_all(dataclasses.asdict(recipe))
        kept = {name: trained.meta[name] for name in ("model_config", "tokenizer", "recipe", "mc_config") if name in trained.meta}
        run_folder = ensure_dir(self.run_folder)
        self.say(
            f"{self.stage}: {self.tag}, from {self.origin} step {trained.checkpoint.step}; "
            f"{plan.num_iterations:,} steps × {plan.total_batch_size:,} tokens"
        )
        trainer = Trainer(
            objective=objective,
            optimizer=MuonAdamW(groups, runtime.muon_dtype, compiled=runtime.compile and runtime.device.type == "cuda"),
            plan=plan,
            schedule=recipe.schedule,
            flags=dataclasses.replace(recipe.trainer, device_batch_size=rows),
            grad_clip=recipe.optim.grad_clip,
            loader=loader,
            runtime=runtime,
            store=CheckpointStore(base_dir() / f"{self.stage}_checkpoints" / self.tag, recipe.trainer.keep_checkpoints),
            run_folder=run_folder,
            identity={
                **trained.meta["model_config"],
                "tokenizer": trained.tokenizer.fingerprint,
                "source": self.origin,
                "source_step": trained.checkpoint.step,
                "source_weights": trained.checkpoint.digest,
                "total_batch_size": plan.total_batch_size,
                "num_iterations": plan.num_iterations,
                "seed": recipe.trainer.seed,
                **identity,
                "data": loader.fingerprint,
                **dataclasses.asdict(recipe.optim),
                **dataclasses.asdict(recipe.schedule),
            },
            # `recipe` stays that of base training, which says what the figures of later stages compare with.
            meta={**kept, "fine_tuning": {**trained.meta.get("fine_tuning", {}), self.stage: record}},
            open_metrics=lambda resumed: open_metrics(
                wandb_name(recipe.run, self.memory),
                record,
                plan.num_iterations,
                run_folder,
                resumed,
                runtime.rank,
                trainer.identity,
                **watched(objective, trainer.rows_per_step),
            ),
            stop=self.stop,
        )
        if self.memory:
            watch_training(trainer, open_telemetry(recipe.telemetry, say=self.say, rank=runtime.rank))
        return trainer

    def finish(self, trainer: Trainer, values: dict[str, Any]) -> int:
        """Trains to the end, leaves a section for the report with `values` in it, and returns the exit code."""
        state, plan = trainer.state, trainer.plan
        if not trainer.run():
            self.say(f"stopped by {self.stop.requested} after step {state.step} of {plan.num_iterations}; run again to continue")
        elif self.runtime.rank == 0:
            section(
                SECTIONS[self.stage] + MEMORY * self.memory,
                {
                    "model tag": self.tag,
                    "starts from": f"{self.origin}, step {self.trained.checkpoint.step}",
                    "steps": state.step,
                    "tokens per step": plan.total_batch_size,
                    **values,
                    "seconds in steps": state.seconds,
                    "final training loss": state.loss.value,
                    "peak memory MiB": peak_memory_mib(self.runtime.device),
                    **({"W&B run": name} if (name := wandb_name(self.recipe.run, self.memory)) else {}),
                    "metrics_file": str(trainer.run_folder / METRICS_FILE),
                },
            )
        self.runtime.close()
        return 0


def begin(recipe: Tuning, stage: Stage) -> Begun:
    """Starts the process of a stage. Raises `UserError` where there is no model to start from."""
    stop = StopSignals()
    outlive_readers()
    runtime = start(recipe.runtime)
    say: Callable[[str], None] = print if runtime.rank == 0 else lambda _: None
    say(runtime.describe())
    origin, trained = open_source(recipe, stage, say)
    check_telemetry(recipe.telemetry, has_memory(trained.meta))
    model = GPT(GPTConfig(**trained.meta["model_config"]), runtime.precision.dtype, runtime.backend)
    torch.manual_seed(recipe.trainer.seed + runtime.rank)  # for objectives that draw
    load_weights_into(model, trained)
    model.to(runtime.device).use_kernels(runtime.compile, recipe.chunked_ce)
    return Begun(recipe, stage, runtime, stop, origin, trained, model, say)


def check_telemetry(telemetry: TelemetryFlags, memory: bool) -> None:
    """Raises `UserError` where its flags or variables are wrong for a model with or without a memory, which the checkpoint decides."""
    if memory:
        telemetry.collector()
        return
    try:
        telemetry.check_unused()
    except ValueError as error:
        raise UserError(str(error)) from error


def open_source(recipe: Tuning, stage: Stage, say: Callable[[str], None]) -> tuple[Stage, Trained]:
    """The stage and the checkpoint that a run starts from. Raises `UserError` where there is none that fits."""
    before, tag, ending = BEFORE[stage], recipe.model_tag, MC_SUFFIX * recipe.mc_enabled
    if recipe.source not in ("auto", *before):
        raise UserError(f"source is {recipe.source}, but {TRAINED_BY[stage]} starts from {' or '.join(before)}; give another --source")
    if recipe.mc_enabled and tag is not None:
        tag = tag.removesuffix(MC_SUFFIX) + MC_SUFFIX
    origin = latest_stage(tag, before if recipe.source == "auto" else (recipe.source,), ending)
    trained = open_trained(origin, tag or newest_tag(origin, ending), recipe.step, say)
    if recipe.mc_enabled and not has_memory(trained.meta):
        raise UserError(f"{trained.name} was trained without a memory; leave --mc out, or train one with python -m scripts.base_train --mc")
    return origin, trained
