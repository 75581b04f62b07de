"""Pretrains a base model: the recipe around the one training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mc.auto_batch import choose_micro_batch
from mc.config import MCConfig, RowPlan
from mc.device_memory import foresee
from mc.eval.metric_bounds import watched
from mc.eval.row_eval import measure_memory, picture
from mc.telemetry.provider import TelemetryFlags, open_telemetry
from mc.telemetry.training import watch_training
from mc.train.controller import new_controller
from nanochat import flags
from nanochat.checkpoint.load_model import Trained, load_weights_into, open_trained
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, ensure_dir
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.eval.bits_per_byte import evaluate_bpb, losses_in_training, validation_batches
from nanochat.eval.core import evaluate_core
from nanochat.eval.core_tasks import GET_IT, bundle_is_here
from nanochat.eval.samples import sample_base
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
from nanochat.train.schedule import HorizonFlags, ScheduleFlags, TrainPlan, plan_run
from nanochat.train.trainer import Event, Trainer, TrainerFlags

REFERENCE_DEPTH = 12  # the nominal rates were tuned at this depth


@dataclass
class BaseTrain:
    """Pretrain a base model on the tokens of a text source."""

    run: str = flag("dummy", "name of the W&B run; dummy = no W&B")
    model_tag: str = flag("", "name of the checkpoint folder; empty = d<depth>")
    init_from: str = flag("", "name of the folder of a trained base model whose weights training starts from; empty = random ones")
    model: GPTConfig = part(GPTConfig)
    data: DataFlags = part(DataFlags)
    runtime: RuntimeFlags = part(RuntimeFlags)
    horizon: HorizonFlags = part(HorizonFlags)
    optim: OptimFlags = part(OptimFlags)
    schedule: ScheduleFlags = part(ScheduleFlags)
    trainer: TrainerFlags = part(TrainerFlags)
    memory: MCConfig = part(MCConfig)
    telemetry: TelemetryFlags = part(TelemetryFlags)
    chunked_ce: bool = flag(True, "compute the loss in chunks that never hold all logits")
    fused_rmsnorm: bool = flag(False, "norms as one operation with a backward of its own; helps what is not compiled")
    check_memory: bool = flag(True, "refuse a run that needs far more memory than the device has")
    eval_every: int = flag(250, "measure validation bits per byte; -1 = never", unit="baseline steps, applied as tokens")
    eval_tokens: int = flag(80 * 524288, "validation tokens to measure on", unit="tokens")
    sample_every: int = flag(2000, "print a few continuations; -1 = never", unit="baseline steps, applied as tokens")
    core_metric_every: int = flag(-1, "measure CORE, whose bundle must be there; -1 = never", unit="baseline steps, applied as tokens")
    core_metric_max_per_task: int = flag(500, "examples of each CORE task", unit="examples")

    def __post_init__(self) -> None:
        for name in ("eval_every", "sample_every", "core_metric_every"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1, or -1 for never")
        for name in ("eval_tokens", "core_metric_max_per_task"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        T, B, b = self.model.max_seq_len, self.horizon.total_batch_size, self.trainer.device_batch_size
        if self.eval_every > 0 and self.eval_tokens < T:
            raise ValueError(f"eval_tokens is {self.eval_tokens}, which is not one row of max_seq_len {T}; give more, or --eval-every -1")
        if B > 0 and B % (T * b):
            raise ValueError(f"total_batch_size {B} is not a multiple of device_batch_size × max_seq_len ({b} × {T}); change one of them")
        if self.init_from and self.init_from == self.tag:
            raise ValueError(f"init_from is {self.init_from!r}, the folder that this run writes to; give another --model-tag")
        if self.mc:
            if self.memory.mc_freeze_model and not self.init_from:
                raise ValueError("mc_freeze_model keeps the model as it is, and this run begins with random weights; give --init-from")
            RowPlan(self.memory, T)  # refuses what does not fit a row
            if self.eval_every > 0 and self.memory.mc_eval_tokens < T:
                raise ValueError(f"mc_eval_tokens is {self.memory.mc_eval_tokens}, which is not one row of max_seq_len {T}; give more")
            return
        if without_effect := flags.to_argv(self.memory):
            raise ValueError(f"{without_effect[0].partition('=')[0]} has no effect without --mc; add --mc or leave it out")
        self.telemetry.check_unused()
        if self.model_tag.endswith(MC_SUFFIX):
            raise ValueError(f"model_tag is {self.model_tag!r}; names in {MC_SUFFIX} are for runs with --mc; choose another or add --mc")

    @property
    def mc(self) -> bool:
        """Whether the run has a memory."""
        return self.memory.mc_enabled

    @property
    def baseline_tag(self) -> str:
        """Name of the folders of the same run without a memory."""
        return (self.model_tag or f"d{self.model.depth}").removesuffix(MC_SUFFIX)

    @property
    def tag(self) -> str:
        """Name of the run's folders."""
        return self.baseline_tag + MC_SUFFIX * self.mc

    @property
    def wandb_name(self) -> str | None:
        """Name of the W&B run; None where there is to be none."""
        return wandb_name(self.run, self.mc)

    def record(self) -> dict[str, Any]:
        """The recipe as JSON, for readers of the run; a run without a memory has nothing to say about one."""
        values = dataclasses.asdict(self)
        if not self.mc:
            del values["memory"], values["telemetry"]
        return values


def main(argv: list[str] | None = None) -> int:
    """Trains, or goes on training, and returns the exit code."""
    recipe = flags.parse(BaseTrain, argv)
    if recipe.core_metric_every > 0 and not bundle_is_here():
        raise UserError(f"CORE needs its bundle; get it so: {GET_IT}; or leave --core-metric-every at -1")
    stop = StopSignals()
    outlive_readers()
    runtime = start(recipe.runtime)
    say: Callable[[str], None] = print if runtime.rank == 0 else lambda _: None
    say(runtime.describe())
    if recipe.mc:
        telemetry = open_telemetry(recipe.telemetry, say=say, rank=runtime.rank)
    run_folder = base_dir() / "base_runs" / recipe.tag
    ensure_dir(run_folder)

    tokenizer = load_tokenizer()
    check_memory(recipe, tokenizer.vocab_size, runtime, say)
    source = open_source(recipe.data.dataset)
    train, val = (open_tokens(source, tokenizer, split, say=say) for split in ("train", "val"))
    T = recipe.model.max_seq_len
    loader = RowLoader(train, T, recipe.data.packing, recipe.trainer.seed, say=say)
    val_loader = RowLoader(val, T, recipe.data.packing, shuffle=False, say=say)

    begin = open_trained("base", recipe.init_from, say=say) if recipe.init_from else None
    model = build_model(recipe, tokenizer, runtime, begin)
    tokens_before = 0 if begin is None else tokens_trained(begin.meta)
    plan = make_plan(recipe, model.config, runtime, tokens_before)
    say(describe(model, plan))
    objective: Objective = NextTokenObjective(model)
    if recipe.mc:
        objective = new_controller(model, recipe.memory, T, recipe.trainer.seed, runtime)
    groups = objective.parameter_groups(recipe.optim, plan)
    optimizer = MuonAdamW(groups, runtime.muon_dtype, compiled=runtime.compile and runtime.device.type == "cuda")
    rows = recipe.trainer.device_batch_size
    if recipe.mc:
        rows = choose_micro_batch(objective, rows, plan.total_batch_size, runtime, say)
    trainer = Trainer(
        objective=objective,
        optimizer=optimizer,
        plan=plan,
        schedule=recipe.schedule,
        flags=dataclasses.replace(recipe.trainer, device_batch_size=rows),
        grad_clip=recipe.optim.grad_clip,
        loader=loader,
        runtime=runtime,
        store=CheckpointStore(base_dir() / "base_checkpoints" / recipe.tag, recipe.trainer.keep_checkpoints),
        run_folder=run_folder,
        identity=identity(recipe, model, plan, tokenizer, loader),
        meta={
            "model_config": dataclasses.asdict(model.config),
            "tokenizer": tokenizer.fingerprint,
            "tokens_before": tokens_before,
            "recipe": redact_all(recipe.record()),
            **({"mc_config": dataclasses.asdict(recipe.memory)} if recipe.mc else {}),
        },
        open_metrics=lambda resumed: open_metrics(
            recipe.wandb_name,
            recipe.record(),
            plan.num_iterations,
            run_folder,
            resumed,
            runtime.rank,
            trainer.identity,
            **watched(objective, trainer.rows_per_step),
        ),
        stop=stop,
    )
    trainer.events = events(recipe, trainer, model, tokenizer, val_loader, runtime)
    if recipe.mc:
        watch_training(trainer, telemetry)
    finished = trainer.run()
    if not finished:
        say(f"stopped by {stop.requested} after step {trainer.state.step} of {plan.num_iterations}; run again to continue")
    elif runtime.rank == 0:
        report(recipe, trainer, source.describe())
    runtime.close()
    return 0


def check_memory(recipe: BaseTrain, vocab_size: int, runtime: Runtime, say: Callable[[str], None]) -> None:
    """Says what the run will need of the device's memory. Raises `UserError` where that is clearly too much."""
    config = model_config(recipe, vocab_size, runtime)
    plan = make_plan(recipe, config, runtime)
    memory, rows = recipe.memory if recipe.mc else None, recipe.trainer.device_batch_size
    foresight = foresee(config, memory, rows, plan.total_batch_size, runtime, recipe.chunked_ce)
    if recipe.check_memory:
        foresight.check()
    say(foresight.describe())


def model_config(recipe: BaseTrain, vocab_size: int, runtime: Runtime) -> GPTConfig:
    """The shape of the model, with `auto` resolved."""
    return dataclasses.replace(recipe.model, vocab_size=vocab_size, window_pattern=runtime.window_pattern(recipe.model.window_pattern))


def build_model(recipe: BaseTrain, tokenizer: Tokenizer, runtime: Runtime, begin: Trained | None = None) -> GPT:
    """The model on its device, with `auto` resolved: with the weights of `begin`, or random ones."""
    config = model_config(recipe, tokenizer.vocab_size, runtime)
    model = GPT(config, runtime.precision.dtype, runtime.backend)
    torch.manual_seed(recipe.trainer.seed + runtime.rank)  # for objectives that draw; the weights and rows have their own
    model.init_weights(torch.Generator().manual_seed(recipe.trainer.seed))
    if begin is not None:
        load_weights_into(model, begin)
    return model.to(runtime.device).use_kernels(runtime.compile, recipe.chunked_ce, recipe.fused_rmsnorm)


def tokens_trained(meta: dict[str, Any]) -> int:
    """Tokens that the weights of a base checkpoint were trained on, by what is saved beside them."""
    return meta["state"]["step"] * meta["identity"]["total_batch_size"] + meta.get("tokens_before", 0)


def make_plan(recipe: BaseTrain, config: GPTConfig, runtime: Runtime, tokens_before: int = 0) -> TrainPlan:
    """Batch, horizon and scales; see `plan_run`. Raises `UserError` where the batch does not divide over the processes."""
    reference = dataclasses.replace(config, depth=REFERENCE_DEPTH, aspect_ratio=64, head_dim=128, kv_heads=0)
    try:
        return plan_run(
            recipe.horizon,
            scaling_parameters=config.scaling_parameters,
            reference_parameters=reference.scaling_parameters,
            flops_per_token=config.flops_per_token(),
            rows_multiple=recipe.trainer.device_batch_size * recipe.model.max_seq_len * runtime.world_size,
            tokens_before=tokens_before,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def identity(recipe: BaseTrain, model: GPT, plan: TrainPlan, tokenizer: Tokenizer, loader: RowLoader) -> dict[str, Any]:
    """What makes this run this run: a checkpoint that differs in any of it belongs to another."""
    return {
        **dataclasses.asdict(model.config),
        "tokenizer": tokenizer.fingerprint,
        "total_batch_size": plan.total_batch_size,
        "num_iterations": plan.num_iterations,
        "seed": recipe.trainer.seed,
        **({"init_from": recipe.init_from} if recipe.init_from else {}),
        "packing": recipe.data.packing,
        "data": loader.fingerprint,  # after what it depends on too: the first difference is the one that is named
        **dataclasses.asdict(recipe.optim),
        **dataclasses.asdict(recipe.schedule),
        **(recipe.memory.identity() if recipe.mc else {}),
    }


def events(recipe: BaseTrain, trainer: Trainer, model: GPT, tokenizer: Tokenizer, val: RowLoader, runtime: Runtime) -> list[Event]:
    """What happens beside training: validation, samples, CORE, each where it is asked for."""
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(runtime.device)

    def evaluate(should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        batches = validation_batches(val, recipe.eval_tokens, recipe.trainer.device_batch_size, runtime)
        bpb = evaluate_bpb(losses_in_training(model), batches, token_bytes, should_stop)
        return None if bpb is None else {"val/bpb": bpb}

    def evaluate_mc(should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        tokens, rows = min(recipe.memory.mc_eval_tokens, recipe.eval_tokens), trainer.flags.device_batch_size
        figures = measure_memory(trainer.objective, validation_batches(val, tokens, rows, runtime), should_stop)
        if figures is not None and recipe.memory.mc_log_lod_ascii and runtime.rank == 0:
            trainer.metrics.say(picture(trainer.objective, validation_batches(val, tokens, rows, runtime)))
        return figures

    def sample(should_stop: Callable[[], bool]) -> dict[str, Any]:
        if runtime.rank == 0:
            for continued in sample_base(model, tokenizer, unconditioned=0):
                trainer.metrics.say(f"  {continued['prompt']!r} → {continued['text']!r}")
        runtime.barrier()
        return {}

    def core(should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        batch_tokens = recipe.trainer.device_batch_size * model.config.max_seq_len
        result = evaluate_core(model, tokenizer, batch_tokens, recipe.core_metric_max_per_task, should_stop=should_stop)
        return None if result is None else {"core_metric": result.core}

    wanted = [(recipe.eval_every, evaluate), (recipe.sample_every, sample), (recipe.core_metric_every, core)]
    if recipe.mc:
        wanted.insert(1, (recipe.eval_every, evaluate_mc))
    return [Event(trainer.cadence(every), action) for every, action in wanted if every > 0]


def describe(model: GPT, plan: TrainPlan) -> str:
    """One line about what will be trained, for how long."""
    parameters = sum(p.numel() for p in model.parameters())
    flops = model.flops_per_token() * plan.total_tokens
    return (
        f"{model.config.depth} layers × {model.config.width}, {parameters:,} parameters, windows {model.config.window_pattern}; "
        f"{plan.num_iterations:,} steps × {plan.total_batch_size:,} tokens = {plan.total_tokens:,} tokens, {flops:.2e} FLOPs"
    )


def report(recipe: BaseTrain, trainer: Trainer, data: dict[str, Any]) -> None:
    """Leaves the stage's sections for the report."""
    model, plan, state = trainer.objective.model, trainer.plan, trainer.state
    tokens = state.step * plan.total_batch_size
    section("data", data)
    compared = {"baseline_metrics_file": str(trainer.run_folder.with_name(recipe.baseline_tag) / METRICS_FILE)} if recipe.mc else {}
    section(
        f"base_training{MEMORY * recipe.mc}",
        {
            "model tag": recipe.tag,
            "layers × width": f"{model.config.depth} × {model.config.width}",
            "parameters": sum(p.numel() for p in model.parameters()),
            "context length": model.config.max_seq_len,
            "window pattern": model.config.window_pattern,
            "device": trainer.runtime.describe(),
            "tokens per step": plan.total_batch_size,
            "steps": f"{state.step} of {plan.num_iterations}",
            "tokens": tokens,
            "tokens per parameter": tokens / model.config.scaling_parameters,
            "training FLOPs": tokens * trainer.flops_per_token,
            "seconds in steps": state.seconds,
            "tokens per second": tokens / state.seconds if state.seconds else 0.0,
            "final training loss": state.loss.value,
            "peak memory MiB": peak_memory_mib(trainer.runtime.device),
            **({"W&B run": recipe.wandb_name} if recipe.wandb_name else {}),
            "metrics_file": str(trainer.run_folder / METRICS_FILE),
            **compared,
        },
    )


if __name__ == "__main__":
    flags.run(main)
