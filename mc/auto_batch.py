"""Micro-batch size of a run with a memory: smaller than the baseline's, so that variants fit, at the same tokens per step.

Rows of a step per process = rows of a micro-batch × micro-batches, always exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from mc.row_plan import RowPlan
from mc.train.controller import MCController
from mc.train.lens_loss import AdvantageNorm
from nanochat.common import UserError
from nanochat.runtime.device import Runtime

MEMORY_SHARE = 0.92  # of a GPU's device memory that a micro-batch may take; the optimizer step needs some too


def compute_variant_multiplier(plan: RowPlan) -> float:
    """Tokens and entries, of row and variants, that the widest step of a run forwards per token of the row."""
    return plan.multiplier(0.0)


def choose_micro_batch_divisor(per_rank_budget: int, desired_multiplier: float, fits: int | None = None) -> tuple[int, int]:
    """Splits `per_rank_budget`, the rows of a step of one process, into (rows of a micro-batch, micro-batches of a step).

    The micro-batch is the largest that forwards, at `desired_multiplier` times its tokens, at most `fits` rows of plain tokens
    (default: the whole budget), and at least one row. Raises `ValueError` for a budget or a multiplier below 1.
    """
    if per_rank_budget < 1:
        raise ValueError(f"per_rank_budget is {per_rank_budget}; a step has at least one row for each process")
    if not desired_multiplier >= 1:
        raise ValueError(f"desired_multiplier is {desired_multiplier}; a row is forwarded at least once")
    most = (per_rank_budget if fits is None else fits) / desired_multiplier
    rows = max((d for d in divisors(per_rank_budget) if d <= most), default=1)
    return rows, per_rank_budget // rows


def estimate_mc_device_batch(baseline_rows: int, per_rank_budget: int, plan: RowPlan) -> tuple[int, int]:
    """(rows of a micro-batch, micro-batches) if the baseline's micro-batch has `baseline_rows`; see `choose_micro_batch_divisor`."""
    return choose_micro_batch_divisor(per_rank_budget, compute_variant_multiplier(plan), baseline_rows)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def largest_that_fits(candidates: Sequence[int], first: int, fits: Callable[[int], bool]) -> int | None:
    """The largest of the ascending `candidates` that fits, searched up or down from `first`; None if none fits.

    All below a candidate that fits are taken to fit.
    """
    at = candidates.index(first)
    if fits(candidates[at]):
        while at + 1 < len(candidates) and fits(candidates[at + 1]):
            at += 1
        return candidates[at]
    return next((c for c in reversed(candidates[:at]) if fits(c)), None)


def probe_micro_batch(objective: MCController, per_rank_budget: int, estimate: int, seq_len: int, most: int | None = None) -> int:
    """The largest micro-batch, in rows and at most `most`, whose forward and backward fit into the GPUs of all processes.

    Runs them with the widest variants, and restores the objective and the random generators. Raises `UserError` if not even one
    row fits.
    """
    device = next(objective.parameters()).device
    total = torch.cuda.get_device_properties(device).total_memory

    def fits(rows: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            rehearse(objective, rows, seq_len)
            peak = torch.cuda.max_memory_allocated(device)
        except torch.cuda.OutOfMemoryError:
            peak = total
        torch.cuda.empty_cache()  # after the handler: until then the exception holds the tensors of its frames
        return peak <= MEMORY_SHARE * total

    rows = largest_that_fits([rows for rows in divisors(per_rank_budget) if most is None or rows <= most], estimate, fits)
    torch.cuda.reset_peak_memory_stats(device)
    agreed = torch.tensor([rows or 0], device=device)
    if dist.is_initialized():
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)  # the minimum of divisors is a divisor
    if not agreed.item():
        raise UserError("out of GPU memory with one row and its variants; use fewer --mc-num-random-variants or a shorter --max-seq-len")
    return int(agreed.item())


def rehearse(objective: MCController, rows: int, seq_len: int) -> None:
    """Runs a throw-away forward and backward on random tokens, and restores all state."""
    device = next(objective.parameters()).device
    # Not load_state_dict: a copy of the weights would take device memory that a step does not.
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    extra = {name: module.get_extra_state() for name, module in objective.named_modules() if _has_extra_state(module)}
    running = [module for module in objective.modules() if isinstance(module, AdvantageNorm)]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # A process that runs out of device memory would never join the others' all-reduce.
        for statistics in running:
            statistics.alone = True
        try:
            tokens = torch.randint(objective.model.config.vocab_size, (rows, seq_len + 1)).to(device)
            objective(tokens[:, :-1], tokens[:, 1:], 0.0).total.backward()
        finally:
            for statistics in running:
                statistics.alone = False
            objective.zero_grad(set_to_none=True)
            for name, buffer in objective.named_buffers():
                buffer.copy_(buffers[name])
            for name, module in objective.named_modules():
                if name in extra:
                    module.set_extra_state(extra[name])


def _has_extra_state(module: torch.nn.Module) -> bool:
    return type(module).get_extra_state is not torch.nn.Module.get_extra_state


def choose_micro_batch(
    controller: MCController, baseline_rows: int, total_batch_size: int, runtime: Runtime, say: Callable[[str], None]
) -> int:
    """Chooses the rows of a micro-batch, always a divisor of a step's rows per process; the baseline's are `baseline_rows`.

    On a CPU they are the baseline's: RAM is plenty, and small micro-batches cost time. Elsewhere they are the largest that fit, but at
    most the baseline's if the model is to learn as without a memory: sums of other micro-batches round differently. A step stays
    `total_batch_size` tokens. Raises `UserError` if a GPU cannot hold a single row.
    """
    config, T = controller.config, controller.plan.length
    budget = total_batch_size // (T * runtime.world_size)
    rows = baseline_rows
    if config.mc_auto_batch and runtime.device.type != "cpu":
        most = baseline_rows if config.apart else None
        rows = most or estimate_mc_device_batch(baseline_rows, budget, controller.plan)[0]
        if runtime.device.type == "cuda":
            rows = probe_micro_batch(controller, budget, rows, T, most)
        if config.apart and rows < baseline_rows:
            say(f"memory: micro-batches of {baseline_rows} rows do not fit; with smaller ones the model is the baseline's up to rounding")
    assert budget * runtime.world_size * T == total_batch_size and budget % rows == 0, "tokens per step are not the baseline's"
    controller.micro_batches_here = budget // rows
    say(f"memory: {budget // rows} micro-batches of {rows} rows in a step; {budget // baseline_rows} of {baseline_rows} without a memory")
    if config.session.mc_tree == "disk":
        say("memory: training rows live in RAM; --mc-tree disk is for sessions")
    return rows
