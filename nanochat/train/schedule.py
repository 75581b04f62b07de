"""Scaling laws for horizon, batch, learning rate and weight decay, and schedules over the steps of a run.

Symbols: `B` tokens per step, `D` tokens of the run, η learning rate, λ weight decay; B_ref and D_ref are those of the
depth-12 run that the nominal values were tuned at. Sources: B ∝ D^0.383 (arXiv 2505.13738); η ∝ √B, and η ∝ D^−0.28 in
runs shorter than D_ref (own sweeps; 0.32 in arXiv 2409.19913); constant τ = B/(η·λ·D) (arXiv 2405.13698), hence
λ = λ_ref · (η_ref/η) · (B/B_ref) · D_ref/D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nanochat.flags import check, check_choices, flag

# The run at depth 12 that the nominal values were tuned at.
BATCH_REFERENCE = 1 << 19  # tokens per step
RATIO_REFERENCE = 12.0  # tokens per scaling parameter
BATCH_EXPONENT = 0.383
HORIZON_EXPONENT = 0.28
MOST_TOKENS = 10**21  # of a run: a slip of the hand, beyond all that was ever written
SHORTEST = 2_000_000  # tokens; shorter runs want no higher rates than these
MOMENTUM_START, MOMENTUM_PEAK, MOMENTUM_END = 0.85, 0.97, 0.90
MOMENTUM_WARMUP_STEPS = 400


@dataclass
class HorizonFlags:
    """Length of the run and batch size.

    The length is that of num_iterations, else target_flops, else target_param_data_ratio. The batch-size law uses the tokens of the
    latter two, even if num_iterations is given.
    """

    num_iterations: int = flag(-1, "optimizer steps; -1 = derive from target_flops or target_param_data_ratio", unit="steps")
    target_flops: float = flag(-1.0, "training FLOPs; -1 = derive from target_param_data_ratio", unit="FLOPs")
    target_param_data_ratio: float = flag(RATIO_REFERENCE, "training tokens per scaling parameter", unit="tokens per parameter")
    total_batch_size: int = flag(-1, "tokens per step; -1 = derive from the batch-size law", unit="tokens")
    batch_mult: float = flag(1.0, "multiplies the law's batch size, rounded to whole micro-batches of all processes", unit="×")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1", "num_iterations", "total_batch_size")
        check(self, lambda value: 0 < value < math.inf or value == -1, "must be positive, or -1", "target_flops")
        check(self, lambda value: 0 < value < math.inf, "must be positive", "target_param_data_ratio", "batch_mult")
        if self.num_iterations > 0 and self.target_flops > 0:
            raise ValueError("num_iterations and target_flops both set the horizon; give one")
        if self.total_batch_size > 0 and self.batch_mult != 1:
            raise ValueError("total_batch_size and batch_mult contradict each other; give one")


@dataclass
class ScheduleFlags:
    """Learning-rate schedule."""

    warmup_steps: int = flag(40, "steps of linear warm-up", unit="steps")
    warmdown_ratio: float = flag(0.65, "fraction of the run, at its end, in which the learning rate decays", unit="of the run")
    warmdown_shape: Literal["linear", "cosine"] = flag("linear", "shape of the learning-rate decay")
    final_lr_frac: float = flag(0.05, "final learning rate as a fraction of the peak", unit="of the peak")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 0, "must not be negative", "warmup_steps")
        check_choices(self, "warmdown_shape")
        check(self, lambda value: 0 <= value <= 1, "must lie in 0 … 1", "warmdown_ratio", "final_lr_frac")


@dataclass(frozen=True)
class TrainPlan:
    """Batch size, steps and scale factors of a run."""

    total_batch_size: int  # tokens per step
    num_iterations: int
    lr_scale: float  # multiplies the nominal learning rates
    weight_decay_scale: float  # multiplies the nominal weight decay of matrices
    horizon_scale: float = 1.0  # the part of lr_scale that makes up for a short run

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.total_batch_size * self.num_iterations


def plan_run(
    flags: HorizonFlags,
    *,
    scaling_parameters: int,
    reference_parameters: int,
    flops_per_token: float,
    rows_multiple: int,
    tokens_before: int = 0,
) -> TrainPlan:
    """Horizon, batch and scales for a model of `scaling_parameters`; `reference_parameters` are those of depth 12.

    The law's batch is rounded to a power of two, but at least `rows_multiple` tokens (a micro-batch of all processes), then
    multiplied by `batch_mult` and rounded to whole micro-batches. Learning rates and weight decay use the actual tokens, those of
    the run, B × steps, and `tokens_before`, on which its first weights were trained; τ is the same for every batch and horizon.
    Raises `ValueError` if the batch is not a multiple of `rows_multiple`, or the horizon is one that nothing reaches.
    """
    reference_tokens = RATIO_REFERENCE * reference_parameters
    tokens = flags.target_flops / flops_per_token if flags.target_flops > 0 else flags.target_param_data_ratio * scaling_parameters
    _check_tokens(tokens)
    B = flags.total_batch_size
    if B == -1:
        law = BATCH_REFERENCE * (tokens / reference_tokens) ** BATCH_EXPONENT
        B = max(2 ** round(math.log2(law)), rows_multiple)
        if flags.batch_mult != 1:
            B = max(1, round(B * flags.batch_mult / rows_multiple)) * rows_multiple
    if B % rows_multiple:
        raise ValueError(
            f"total_batch_size {B} is not a multiple of {rows_multiple} tokens (device_batch_size × max_seq_len × processes); change one"
        )
    steps = flags.num_iterations if flags.num_iterations > 0 else max(1, round(tokens / B))
    _check_tokens(B * steps)
    reference = BATCH_REFERENCE * max(1, round(reference_tokens / BATCH_REFERENCE))
    total = tokens_before + B * steps
    horizon_scale = max(1.0, reference / max(total, SHORTEST)) ** HORIZON_EXPONENT
    batch_scale = (B / BATCH_REFERENCE) ** 0.5
    return TrainPlan(B, steps, batch_scale * horizon_scale, batch_scale / horizon_scale * reference / total, horizon_scale)


def _check_tokens(tokens: float) -> None:
    if tokens > MOST_TOKENS:
        raise ValueError(f"the horizon is {tokens:.3g} tokens; it must be at most {MOST_TOKENS:.0e}; give a shorter one or a smaller model")


@dataclass(frozen=True)
class Leg:
    """Part of a run with schedules of its own, from step `start` to the run's end: the whole run, or what was added to it later.

    `progress`, `lr` and `momentum` are what the run had come to before it: fraction done, multiplier, Muon's momentum.
    """

    start: int = 0
    progress: float = 0.0
    lr: float = 0.0
    momentum: float = MOMENTUM_START

    def fraction(self, step: int, total: int) -> float:
        """Fraction of the run that is done before `step`. It never falls, so that what a run anneals stays annealed."""
        return self.progress + (1 - self.progress) * ((step - self.start) / (total - self.start))

    def multipliers(self, flags: ScheduleFlags, step: int, total: int) -> dict[str, float]:
        """Multipliers of learning rate and weight decay, and Muon's momentum, at `step` of a run of `total` steps."""
        step, total = step - self.start, total - self.start
        return {
            "lr": lr_multiplier(flags, step, total, self.lr),
            "momentum": muon_momentum(flags, step, total, self.momentum),
            "weight_decay": weight_decay_multiplier(step, total),
        }

    def next(self, flags: ScheduleFlags, step: int, total: int) -> Leg:
        """The leg that begins at `step` of a run that was to have `total` steps."""
        last = self.multipliers(flags, step - 1, total)
        return Leg(step, self.fraction(step, total), last["lr"], last["momentum"])

    def describe(self, flags: ScheduleFlags, total: int) -> str:
        """One line about a leg that was added."""
        falling = round(flags.warmdown_ratio * (total - self.start))
        peak = f"rises from {self.lr:.3g} to 1 × its peak in {flags.warmup_steps} steps" if self.lr < 1 else "stays at its peak"
        return (
            f"going on from step {self.start:,} to {total:,} with the optimizer and the data as they are: the learning rate {peak} and "
            f"falls to {flags.final_lr_frac:g} × over the last {falling:,} steps; the weight decay follows its half cosine anew"
        )


def lr_multiplier(flags: ScheduleFlags, step: int, total: int, before: float = 0.0) -> float:
    """Multiplier at `step` (0 … total−1): linear warm-up from `before`, constant, decay to `final_lr_frac`; the lower if both overlap."""
    rise = before + (1 - before) * ((step + 1) / flags.warmup_steps) if step < flags.warmup_steps else 1.0
    height = 1 - _warmdown_progress(flags, step, total)
    if flags.warmdown_shape == "cosine":
        height = 0.5 - 0.5 * math.cos(math.pi * height)
    return min(rise, flags.final_lr_frac + (1 - flags.final_lr_frac) * height)


def _warmdown_progress(flags: ScheduleFlags, step: int, total: int) -> float:
    """Progress of the warm-down: 0 up to its start, then rising to 1 after the last step."""
    warmdown = round(flags.warmdown_ratio * total)
    return max(0.0, 1 - (total - step) / warmdown) if warmdown else 0.0


def muon_momentum(flags: ScheduleFlags, step: int, total: int, before: float = MOMENTUM_START) -> float:
    """Muon's momentum: rises from `before` over the first steps and falls during the warm-down; the lower one if both overlap."""
    rise = before + (MOMENTUM_PEAK - before) * min(1.0, step / MOMENTUM_WARMUP_STEPS)
    return min(rise, MOMENTUM_PEAK + (MOMENTUM_END - MOMENTUM_PEAK) * _warmdown_progress(flags, step, total))


def weight_decay_multiplier(step: int, total: int) -> float:
    """Half cosine from 1 to 0 over the run."""
    return 0.5 + 0.5 * math.cos(math.pi * step / total)


def passes_multiple(every_tokens: int, before: int, after: int) -> bool:
    """Whether a positive multiple of `every_tokens` lies in (before, after], the token counts around one step."""
    return after // every_tokens > max(before, 0) // every_tokens
