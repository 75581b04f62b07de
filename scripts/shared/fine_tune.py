"""What `mid_train` and `chat_sft` share: training a model on, on the assistant's turns of conversations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.checkpoint.load_model import Stage
from nanochat.common import UserError
from nanochat.data.conversation_loader import ConversationLoader
from nanochat.eval.bits_per_byte import evaluate_bpb, losses_in_training, validation_batches
from nanochat.flags import flag
from nanochat.tasks.mixtures import Mixture
from nanochat.train.schedule import TrainPlan
from nanochat.train.trainer import Event, Trainer
from scripts.shared.stage import Begun, Tuning, begin


@dataclass
class FineTune(Tuning):
    """What both stages are told."""

    mixture: str = flag("auto", "auto | demo | tasks, separated by commas, as in gsm8k,spelling,customjson:PATH")
    epochs: float = flag(1.0, "passes over the conversations", unit="epochs")
    total_batch_size: int = flag(-1, "tokens per step; -1 = as in base training", unit="tokens")
    eval_every: int = flag(100, "measure bits per byte of held-out replies; -1 = never", unit="steps, applied as tokens")
    eval_tokens: int = flag(1 << 20, "tokens of held-out conversations to measure on", unit="tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("total_batch_size", "eval_every"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1, or -1")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs is {self.epochs}; it must be positive")
        if self.eval_tokens < 1:
            raise ValueError(f"eval_tokens is {self.eval_tokens}; it must be at least 1")


def fine_tune(recipe: FineTune, stage: Stage, mixtures: Callable[..., tuple[Mixture, Mixture]]) -> int:
    """Trains, or goes on training, and returns the exit code.

    `mixtures(name, seed, say)` are the conversations to train on and those held out.
    """
    begun = begin(recipe, stage)
    tokenizer, T, seed = begun.trained.tokenizer, begun.model.config.max_seq_len, recipe.trainer.seed
    mixture, held_out = mixtures(recipe.mixture, seed, begun.say)
    loader = ConversationLoader(mixture, tokenizer, T, seed, say=begun.say)
    plan = plan_epochs(recipe, begun, loader)
    trainer = begun.trainer(loader, plan, begun.device_batch_size, {})
    if recipe.eval_every > 0:
        held_out_loader = ConversationLoader(held_out, tokenizer, T, shuffle=False, say=begun.say)
        trainer.events = [Event(trainer.cadence(recipe.eval_every), evaluation(recipe, begun, trainer, held_out_loader))]
    figures = {name.replace("_", " "): figure for name, figure in loader.counts.items()}
    epochs = plan.total_tokens / (T * loader.rows_per_epoch)
    described = mixture.describe()
    kept = {name.replace("_", " "): described[name] for name in ("mixture", "left_out") if name in described}
    return begun.finish(trainer, {"epochs": epochs, **figures, **kept})


def plan_epochs(recipe: FineTune, begun: Begun, loader: ConversationLoader) -> TrainPlan:
    """Batch and horizon. Raises `UserError` where the batch does not divide over micro-batches and processes."""
    B = recipe.total_batch_size if recipe.total_batch_size > 0 else begun.trained.meta["identity"]["total_batch_size"]
    multiple = loader.seq_len * begun.device_batch_size * begun.runtime.world_size
    if B % multiple:
        raise UserError(f"total_batch_size {B} is not a multiple of {multiple} tokens (device_batch_size × row × processes); change one")
    steps = recipe.num_iterations
    return begun.plan(B, steps if steps > 0 else math.ceil(recipe.epochs * loader.rows_per_epoch * loader.seq_len / B))


def evaluation(
    recipe: FineTune, begun: Begun, trainer: Trainer, held_out: ConversationLoader
) -> Callable[[Callable[[], bool]], dict[str, Any] | None]:
    """Bits per byte of what the assistant says in held-out conversations."""
    model, token_bytes = begun.model, torch.from_numpy(begun.trained.tokenizer.token_bytes()).to(begun.runtime.device)

    def evaluate(should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        tokens = max(recipe.eval_tokens, held_out.seq_len)
        batches = validation_batches(held_out, tokens, trainer.flags.device_batch_size, begun.runtime)
        bpb = evaluate_bpb(losses_in_training(model), batches, token_bytes, should_stop)
        return None if bpb is None else {"val/bpb": bpb}

    return evaluate
