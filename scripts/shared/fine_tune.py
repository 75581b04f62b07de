"""Shared code of mid_train and chat_sft: continued training on the assistant's turns of conversations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat.checkpoint.load_model import Stage
from nanochat.common import UserError
from nanochat.data.conversation_loader import ConversationLoader
from nanochat.flags import check, flag
from nanochat.tasks.mixtures import open_mixtures
from nanochat.train.schedule import TrainPlan
from scripts.shared.evaluations import bits_per_byte
from scripts.shared.tuning import Tuning, TuningRun, begin


@dataclass
class FineTune(Tuning):
    """Flags of both stages."""

    mixture: str = flag("auto", "auto, demo, or tasks separated by commas, such as gsm8k,spelling,customjson:PATH")
    epochs: float = flag(1.0, "passes over the conversations", unit="epochs")
    total_batch_size: int = flag(-1, "tokens per step; -1 = as in base training", unit="tokens")
    eval_every: int = flag(100, "evaluate bits per byte of held-out replies; -1 = never", unit="steps, applied as tokens")
    eval_tokens: int = flag(1 << 20, "tokens of held-out conversations to evaluate on", unit="tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "total_batch_size", "eval_every")
        check(self, lambda value: 0 < value < math.inf, "must be positive", "epochs")
        check(self, lambda value: value >= 1, "must be at least 1", "eval_tokens")


def fine_tune(args: FineTune, stage: Stage) -> int:
    """Trains on the mixture of the stage, or on the one that is given, and returns the exit code."""
    with begin(args, stage) as run:
        _train(run, args, stage)
    return 0


def _train(run: TuningRun, args: FineTune, stage: Stage) -> None:
    tokenizer, say, T = run.tokenizer, run.runtime.say, run.model.config.max_seq_len
    mixture, held_out = open_mixtures(stage if args.mixture == "auto" else args.mixture, args.trainer.seed, say)
    loader = ConversationLoader(mixture, tokenizer, T, args.trainer.seed, say=say)
    plan = plan_epochs(args, run, loader)
    trainer = run.trainer(loader, plan, run.device_batch_size, {})
    if args.eval_every > 0:
        held_out_loader = ConversationLoader(held_out, tokenizer, T, shuffle=False, say=say)
        trainer.callbacks.append(bits_per_byte(held_out_loader, tokenizer, max(args.eval_tokens, T), args.eval_every))
    counts = {name.replace("_", " "): count for name, count in loader.counts.items()}
    epochs = plan.total_tokens / (T * loader.rows_per_epoch)
    described = mixture.describe()
    kept = {name.replace("_", " "): described[name] for name in ("mixture", "left_out") if name in described}
    run.finish(trainer, {"epochs": epochs, **counts, **kept})


def plan_epochs(args: FineTune, run: TuningRun, loader: ConversationLoader) -> TrainPlan:
    """Batch and horizon. Raises `UserError` if the batch does not divide over micro-batches and processes."""
    B = args.total_batch_size if args.total_batch_size > 0 else run.trained.meta["identity"]["total_batch_size"]
    multiple = loader.seq_len * run.device_batch_size * run.runtime.world_size
    if B % multiple:
        raise UserError(f"total_batch_size {B} is not a multiple of {multiple} tokens (device_batch_size × row × processes); change one")
    steps = args.num_iterations
    return run.plan(B, steps if steps > 0 else math.ceil(args.epochs * loader.rows_per_epoch * loader.seq_len / B))
