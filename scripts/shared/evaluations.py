"""Evaluations during training: bits per byte, the memory, samples and CORE."""

from __future__ import annotations

from typing import Any

import torch

from mc.config import MCConfig
from mc.eval.row_eval import evaluate_memory, picture
from nanochat.data.rows import Loader
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.bits_per_byte import evaluate_bpb, losses_in_training, validation_batches
from nanochat.eval.core import evaluate_core
from nanochat.eval.samples import sample_base
from nanochat.train.callback import Evaluation, Run


def bits_per_byte(loader: Loader, tokenizer: Tokenizer, tokens: int, every_steps: int, rows: int | None = None) -> Evaluation:
    """Bits per byte on `tokens` tokens of `loader`, in batches of `rows` rows (None = those of a micro-batch)."""
    lengths = torch.from_numpy(tokenizer.token_bytes())

    def evaluate(run: Run) -> dict[str, Any] | None:
        batches = validation_batches(loader, tokens, rows or run.device_batch_size, run.runtime)
        bpb = evaluate_bpb(losses_in_training(run.objective.model), batches, lengths.to(run.runtime.device), run.should_stop)
        return None if bpb is None else {"val/bpb": bpb}

    return Evaluation(evaluate, every_steps)


def memory_worth(loader: Loader, config: MCConfig, tokens: int, every_steps: int) -> Evaluation:
    """Row-level evaluation of the memory on at most `tokens` tokens of `loader`."""
    tokens = min(config.mc_eval_tokens, tokens)

    def evaluate_mc(run: Run) -> dict[str, Any] | None:
        rows = run.device_batch_size
        metrics = evaluate_memory(run.objective, validation_batches(loader, tokens, rows, run.runtime), run.should_stop)
        if metrics is not None and config.mc_log_lod_ascii and run.runtime.rank == 0:
            run.say(picture(run.objective, validation_batches(loader, tokens, rows, run.runtime)))
        return metrics

    return Evaluation(evaluate_mc, every_steps)


def samples(tokenizer: Tokenizer, every_steps: int) -> Evaluation:
    """Prints a few completions."""

    def sample(run: Run) -> dict[str, Any]:
        if run.runtime.rank == 0:
            for completion in sample_base(run.objective.model, tokenizer, unconditioned=0):
                run.say(f"  {completion['prompt']!r} → {completion['text']!r}")
        run.runtime.barrier()
        return {}

    return Evaluation(sample, every_steps)


def core(tokenizer: Tokenizer, batch_tokens: int, max_per_task: int, every_steps: int) -> Evaluation:
    """CORE metric, on at most `max_per_task` examples of each task."""

    def core(run: Run) -> dict[str, Any] | None:
        result = evaluate_core(run.objective.model, tokenizer, batch_tokens, max_per_task, should_stop=run.should_stop)
        return None if result is None else {"core_metric": result.core}

    return Evaluation(core, every_steps)
