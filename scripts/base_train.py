"""Pretrains a base model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from mc.config import MCConfig
from mc.device_memory import Foresight, foresee
from mc.row_plan import RowPlan
from mc.telemetry.provider import NoOpTelemetryProvider, open_telemetry
from mc.train.controller import MCController, new_controller
from nanochat import flags
from nanochat.checkpoint.load_model import Trained, check_tag, load_weights_into, open_trained
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.fit_splits import fit_splits
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.token_cache import describe_splits, open_splits
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.eval.core_tasks import GET_IT, bundle_is_here
from nanochat.flags import check, flag, part
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.report.sections import section
from nanochat.runtime.device import Runtime
from nanochat.runtime.folder_lock import FolderLock
from nanochat.runtime.signals import StopSignals
from nanochat.tracking.run_log import MC_SUFFIX, METRICS_FILE
from nanochat.train.objective import NextTokenObjective
from nanochat.train.schedule import HorizonFlags, TrainPlan, plan_run
from nanochat.train.trainer import Trainer
from scripts.shared.evaluations import bits_per_byte, core, memory_worth, samples
from scripts.shared.stage import StageFlags, StageRun, check_shardable, locked, started

REFERENCE_DEPTH = 12  # the nominal learning rates were tuned at this depth


@dataclass
class BaseTrain(StageFlags):
    """Pretrain a base model on the tokens of a text source."""

    model_tag: str = flag("", "name of the checkpoint folder; empty = d<depth>")
    init_from: str = flag("", "tag of a base model to initialise the weights from; empty = random initialisation")
    model: GPTConfig = part(GPTConfig)
    data: DataFlags = part(DataFlags)
    horizon: HorizonFlags = part(HorizonFlags)
    memory: MCConfig = part(MCConfig)
    fused_rmsnorm: bool = flag(False, "fused RMSNorm autograd function (helps in eager mode only)")
    check_memory: bool = flag(True, "refuse a run that needs more device memory than there is, by the estimate")
    eval_every: int = flag(250, "evaluate validation bits per byte; -1 = never", unit="baseline steps, applied as tokens")
    eval_tokens: int = flag(80 * 524288, "validation tokens to evaluate on", unit="tokens")
    sample_every: int = flag(2000, "sample a few completions; -1 = never", unit="baseline steps, applied as tokens")
    core_metric_every: int = flag(-1, "evaluate CORE (needs the downloaded bundle); -1 = never", unit="baseline steps, applied as tokens")
    core_metric_max_per_task: int = flag(500, "examples of each CORE task", unit="examples")

    def __post_init__(self) -> None:
        check_tag(self, "model_tag", "init_from")
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "eval_every", "sample_every", "core_metric_every")
        check(self, lambda value: value >= 1, "must be at least 1", "eval_tokens", "core_metric_max_per_task")
        T, B, b = self.model.max_seq_len, self.horizon.total_batch_size, self.trainer.device_batch_size
        if self.eval_every > 0 and self.eval_tokens < T:
            raise ValueError(f"eval_tokens is {self.eval_tokens}, less than one row of max_seq_len {T}; give more, or --eval-every -1")
        if B > 0 and B % (T * b):
            raise ValueError(f"total_batch_size {B} is not a multiple of device_batch_size × max_seq_len ({b} × {T}); change one of them")
        if self.init_from and self.init_from == self.tag:
            raise ValueError(f"init_from is {self.init_from!r}, the folder that this run writes to; give another --model-tag")
        check_shardable(self, self.mc)
        if self.mc:
            if self.memory.mc_freeze_model and not self.init_from:
                raise ValueError("mc_freeze_model freezes the model, but this run starts from random weights; give --init-from")
            RowPlan(self.memory, T)  # raises if the settings do not fit a row
            if self.eval_every > 0 and self.memory.mc_eval_tokens < T:
                raise ValueError(f"mc_eval_tokens is {self.memory.mc_eval_tokens}, less than one row of max_seq_len {T}; give more")
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

    def record(self) -> dict[str, Any]:
        """The flags as JSON, for readers of the run; those of the memory only if there is one."""
        values = super().record()
        if not self.mc:
            del values["memory"], values["telemetry"]
        return values


def main(argv: list[str] | None = None) -> int:
    """Trains, or continues training, and returns the exit code."""
    args = flags.parse(BaseTrain, argv)
    if args.core_metric_every > 0 and not bundle_is_here():
        raise UserError(f"CORE needs its bundle; get it with: {GET_IT}; or leave --core-metric-every at -1")
    with started(args) as (runtime, stop), locked("base", args.tag, runtime) as lock:
        pretrain(args, runtime, stop, lock)
    return 0


def pretrain(args: BaseTrain, runtime: Runtime, stop: StopSignals, lock: FolderLock | None) -> None:
    """Trains, or continues training, in the locked folder of the run."""
    say = runtime.say
    telemetry = open_telemetry(args.telemetry, say=say, rank=runtime.rank) if args.mc else NoOpTelemetryProvider()
    tokenizer = load_tokenizer()
    foresight = estimate_memory(args, tokenizer.vocab_size, runtime)
    if args.check_memory:
        foresight.check()
    say(foresight.describe())
    T, rows, seed = args.model.max_seq_len, args.trainer.device_batch_size, args.trainer.seed
    source = fit_splits(open_source(args.data.dataset, args.data.text_column), tokenizer, T, say)
    train, val = open_splits(source, tokenizer, say)
    loader = RowLoader(train, T, args.data.packing, seed, say=say)
    val_loader = RowLoader(val, T, args.data.packing, shuffle=False, say=say)

    initial = open_trained("base", args.init_from, say=say) if args.init_from else None
    model = build_model(args, tokenizer, runtime, initial)
    tokens_before = 0 if initial is None else tokens_trained(initial.meta)
    plan = make_plan(args, model.config, runtime, tokens_before)
    say(describe(model, plan))
    objective = (
        new_controller(model, args.memory, T, seed, runtime, pretrained=initial is not None) if args.mc else NextTokenObjective(model)
    )
    run = StageRun("base", args.tag, args, runtime, stop, lock, tokenizer, objective, telemetry)
    trainer = run.build(
        loader,
        plan,
        rows,
        origin={},
        settings={
            **({"init_from": args.init_from} if args.init_from else {}),
            # A run that resumes copies its teacher from them again.
            **({"init_weights": initial.checkpoint.digest} if isinstance(objective, MCController) and objective.teachers else {}),
            "packing": args.data.packing,
            **(args.memory.identity() if args.mc else {}),
        },
        meta={
            "model_config": dataclasses.asdict(model.config),
            "tokenizer": tokenizer.fingerprint,
            "tokens_before": tokens_before,
            "recipe": run.record,
            **({"mc_config": dataclasses.asdict(args.memory)} if args.mc else {}),
        },
    )
    trainer.callbacks += [
        bits_per_byte(val_loader, tokenizer, args.eval_tokens, args.eval_every, rows),
        *([memory_worth(val_loader, args.memory, args.eval_tokens, args.eval_every)] if args.mc else []),
        samples(tokenizer, args.sample_every),
        core(tokenizer, rows * T, args.core_metric_max_per_task, args.core_metric_every),
    ]
    if run.train(trainer):
        section("data", source.describe() | describe_splits(source, train, val))
        run.report(trainer, summary(args, trainer))
    runtime.close()


def estimate_memory(args: BaseTrain, vocab_size: int, runtime: Runtime) -> Foresight:
    """Estimate of the device memory that the run needs."""
    config = model_config(args, vocab_size, runtime)
    plan = make_plan(args, config, runtime)
    memory, rows = args.memory if args.mc else None, args.trainer.device_batch_size
    return foresee(config, memory, rows, plan.total_batch_size, runtime, args.chunked_ce, args.recompute, args.shard_model)


def model_config(args: BaseTrain, vocab_size: int, runtime: Runtime) -> GPTConfig:
    """The model's configuration, with `auto` resolved."""
    return dataclasses.replace(args.model, vocab_size=vocab_size, window_pattern=runtime.window_pattern(args.model.window_pattern))


def build_model(args: BaseTrain, tokenizer: Tokenizer, runtime: Runtime, initial: Trained | None = None) -> GPT:
    """The model on its device, with the weights of `initial` or random ones."""
    config = model_config(args, tokenizer.vocab_size, runtime)
    model = GPT(config, runtime.precision.dtype, runtime.backend)
    torch.manual_seed(args.trainer.seed + runtime.rank)  # for objectives that draw random numbers
    model.init_weights(torch.Generator().manual_seed(args.trainer.seed))
    if initial is not None:
        load_weights_into(model, initial)
    if not args.shard_model:  # else each layer is moved when it is sharded
        model.to(runtime.device)
    return model.use_kernels(runtime.compile, args.chunked_ce, args.fused_rmsnorm, args.recompute)


def tokens_trained(meta: dict[str, Any]) -> int:
    """Tokens that the weights of a base checkpoint with this meta were trained on."""
    return meta["state"]["step"] * meta["identity"]["total_batch_size"] + meta.get("tokens_before", 0)


def make_plan(args: BaseTrain, config: GPTConfig, runtime: Runtime, tokens_before: int = 0) -> TrainPlan:
    """Batch, horizon and scales; see `plan_run`. Raises `UserError` if the batch does not divide over the processes."""
    reference = dataclasses.replace(config, depth=REFERENCE_DEPTH, aspect_ratio=64, head_dim=128, kv_heads=0)
    try:
        return plan_run(
            args.horizon,
            scaling_parameters=config.scaling_parameters,
            reference_parameters=reference.scaling_parameters,
            flops_per_token=config.flops_per_token(),
            rows_multiple=args.trainer.device_batch_size * args.model.max_seq_len * runtime.world_size,
            tokens_before=tokens_before,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def describe(model: GPT, plan: TrainPlan) -> str:
    """One line about the model and the plan."""
    parameters = sum(p.numel() for p in model.parameters())
    flops = model.flops_per_token() * plan.total_tokens
    rates = f"; learning rates × {plan.horizon_scale:.3g}, as the run is short" if plan.horizon_scale > 1 else ""
    return (
        f"{model.config.depth} layers × {model.config.width}, {parameters:,} parameters, windows {model.config.window_pattern}; "
        f"{plan.num_iterations:,} steps × {plan.total_batch_size:,} tokens = {plan.total_tokens:,} tokens, {flops:.2e} FLOPs{rates}"
    )


def summary(args: BaseTrain, trainer: Trainer) -> dict[str, Any]:
    """Model, plan and throughput of a finished run, for the report."""
    model, plan, state = trainer.objective.model, trainer.plan, trainer.state
    tokens = state.step * plan.total_batch_size
    baseline = trainer.run_folder.with_name(args.baseline_tag)
    return {
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
        **({"baseline_metrics_file": str(baseline / METRICS_FILE)} if args.mc else {}),
    }


if __name__ == "__main__":
    flags.run(main)
