"""Reinforcement learning: a chat model learns from what its own replies are worth. Policy gradients with a group baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanochat import flags
from nanochat.common import UserError
from nanochat.eval.chat_eval import ChatEvalFlags, evaluate_task
from nanochat.flags import flag, part
from nanochat.infer.tools import Tools
from nanochat.tasks.registry import open_task
from nanochat.train.rollouts import RolloutFlags, Rollouts
from nanochat.train.trainer import Event
from scripts.shared.stage import Tuning, TuningOptim, TuningSchedule, begin


@dataclass
class RlOptim(TuningOptim):
    lr_mult: float = flag(0.05, "multiplies all rates", unit="×")


@dataclass
class RlSchedule(TuningSchedule):
    warmup_steps: int = flag(0, "steps of linear warm-up", unit="steps")
    warmdown_ratio: float = flag(1.0, "share of the run, at its end, in which the rates fall", unit="of the run")


@dataclass
class ChatRl(Tuning):
    """Train a chat model on the worth of its own replies to the prompts of a task."""

    task: str = flag("gsm8k", "task whose prompts are asked and whose grades are the reward; procedural ones: gym:NAME, arithmetic, …")
    epochs: float = flag(1.0, "passes over the prompts", unit="epochs")
    row_tokens: int = flag(-1, "tokens of prompt and reply; -1 = a whole row of base training", unit="tokens")
    eval_every: int = flag(60, "ask held-out prompts; -1 = never", unit="steps, applied as tokens")
    eval_prompts: int = flag(400, "held-out prompts to ask, one greedy reply each", unit="prompts")
    rollout: RolloutFlags = part(RolloutFlags)
    optim: RlOptim = part(RlOptim)
    schedule: RlSchedule = part(RlSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("row_tokens", "eval_every"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1, or -1")
        if self.eval_prompts < 1:
            raise ValueError(f"eval_prompts is {self.eval_prompts}; it must be at least 1")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs is {self.epochs}; it must be positive")


def main(argv: list[str] | None = None) -> int:
    """Trains, or goes on training, and returns the exit code."""
    recipe = flags.parse(ChatRl, argv)
    begun = begin(recipe, "rl")
    T, seed, runtime = begun.model.config.max_seq_len, recipe.trainer.seed, begun.runtime
    row = T if recipe.row_tokens == -1 else recipe.row_tokens
    if row > T or (begun.memory and row != T):
        allowed = f"exactly {T}, because it has a memory" if begun.memory else f"at most {T}"
        raise UserError(f"row_tokens is {row}; the rows of {begun.trained.name} are {allowed}")
    train, held_out = (open_task(recipe.task, split, seed) for split in ("train", "test"))
    if train.kind == "chat":
        raise UserError(f"task {recipe.task} has nothing to grade a reply by; choose another --task")
    tokenizer = begun.trained.tokenizer
    tools = Tools(tokenizer)
    rollouts = Rollouts(begun.model, tokenizer, train, recipe.rollout, row, seed, runtime, tools)
    P, S = recipe.rollout.prompts_per_step, recipe.rollout.samples
    rows = min(begun.device_batch_size, P * S // runtime.world_size)
    if P % runtime.world_size or P * S % (rows * runtime.world_size):
        raise UserError(
            f"{P} prompts × {S} samples do not divide over {runtime.world_size} processes in micro-batches of {rows} rows; change one"
        )
    steps = recipe.num_iterations if recipe.num_iterations > 0 else math.ceil(recipe.epochs * len(train) / P)
    trainer = begun.trainer(rollouts, begun.plan(P * S * row, steps), rows, {"task": recipe.task, **vars(recipe.rollout)})

    def evaluate(should_stop: Callable[[], bool]) -> dict[str, Any]:
        asked = evaluate_task(begun.model, tokenizer, held_out, ChatEvalFlags(max_problems=recipe.eval_prompts))
        return {"rl/accuracy": asked.accuracy}

    if recipe.eval_every > 0:
        trainer.events = [Event(trainer.cadence(recipe.eval_every), evaluate)]
    return begun.finish(trainer, {"task": recipe.task, "prompts per step": P, "replies per prompt": S, "epochs": steps * P / len(train)})


if __name__ == "__main__":
    flags.run(main)
