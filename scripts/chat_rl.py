"""Reinforcement learning: policy gradients with a group baseline on a chat model's own replies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nanochat import flags
from nanochat.common import UserError
from nanochat.eval.chat_eval import ChatEvalFlags, evaluate_task
from nanochat.flags import check, flag, part
from nanochat.infer.tools import Tools
from nanochat.tasks.mixtures import HELD_OUT, open_splits
from nanochat.train.callback import Evaluation, Run
from nanochat.train.rollouts import RolloutFlags, Rollouts
from scripts.shared.tuning import Tuning, TuningOptim, TuningRun, TuningSchedule, begin


@dataclass
class RlOptim(TuningOptim):
    """Optimizer defaults of reinforcement learning."""

    lr_mult: float = flag(0.05, "multiplies all learning rates", unit="×")


@dataclass
class RlSchedule(TuningSchedule):
    """Schedule defaults of reinforcement learning."""

    warmup_steps: int = flag(0, "steps of linear warm-up", unit="steps")
    warmdown_ratio: float = flag(1.0, "fraction of the run, at its end, in which the learning rate decays", unit="of the run")


@dataclass
class ChatRl(Tuning):
    """Train a chat model on the rewards of its own replies to the prompts of a task."""

    task: str = flag("gsm8k", "task that gives prompts and grades replies: gsm8k, customjson:PATH; by rule: gym:NAME, arithmetic, …")
    epochs: float = flag(1.0, "passes over the prompts", unit="epochs")
    row_tokens: int = flag(-1, "tokens of prompt and reply; -1 = a whole row of base training", unit="tokens")
    eval_every: int = flag(60, "evaluate on held-out prompts; -1 = never", unit="steps, applied as tokens")
    eval_prompts: int = flag(400, "held-out prompts to evaluate on, one greedy reply each", unit="prompts")
    rollout: RolloutFlags = part(RolloutFlags)
    optim: RlOptim = part(RlOptim)
    schedule: RlSchedule = part(RlSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "row_tokens", "eval_every")
        check(self, lambda value: value >= 1, "must be at least 1", "eval_prompts")
        check(self, lambda value: 0 < value < math.inf, "must be positive", "epochs")


def main(argv: list[str] | None = None) -> int:
    """Trains, or continues training, and returns the exit code."""
    args = flags.parse(ChatRl, argv)
    with begin(args, "rl") as run:
        reinforce(run, args)
    return 0


def reinforce(run: TuningRun, args: ChatRl) -> None:
    """Trains, or continues training, on the replies to the prompts of the task."""
    T, seed, runtime = run.model.config.max_seq_len, args.trainer.seed, run.runtime
    row = T if args.row_tokens == -1 else args.row_tokens
    if row > T or (run.memory and row != T):
        allowed = f"exactly {T}, because it has a memory" if run.memory else f"at most {T}"
        raise UserError(f"row_tokens is {row}; the rows of {run.trained.name} are {allowed}")
    train, held_out = open_splits(args.task, seed, say=runtime.say)
    if not len(held_out):
        raise UserError(f"task {args.task} has {len(train)} prompts, too few to hold some out; give at least {HELD_OUT}")
    if train.kind == "chat":
        raise UserError(f"task {args.task} has nothing to grade a reply by; choose another --task")
    tokenizer, tools = run.tokenizer, Tools(run.tokenizer)
    rollouts = Rollouts(run.model, tokenizer, train, args.rollout, row, seed, runtime, tools)
    P, S = args.rollout.prompts_per_step, args.rollout.samples
    rows = min(run.device_batch_size, P * S // runtime.world_size)
    if P % runtime.world_size or P * S % (rows * runtime.world_size):
        raise UserError(
            f"{P} prompts × {S} samples do not divide over {runtime.world_size} processes in micro-batches of {rows} rows; change one"
        )

    def evaluate(run: Run) -> dict[str, Any]:
        result = evaluate_task(run.objective.model, tokenizer, held_out, ChatEvalFlags(max_problems=args.eval_prompts))
        return {"rl/accuracy": result.accuracy}

    steps = args.num_iterations if args.num_iterations > 0 else math.ceil(args.epochs * len(train) / P)
    trainer = run.trainer(rollouts, run.plan(P * S * row, steps), rows, {"task": args.task, **vars(args.rollout)})
    trainer.callbacks.append(Evaluation(evaluate, args.eval_every))
    run.finish(trainer, {"task": args.task, "prompts per step": P, "replies per prompt": S, "epochs": steps * P / len(train)})


if __name__ == "__main__":
    flags.run(main)
