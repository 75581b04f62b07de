"""How long to train, with which batch and rates, and how the rates move: scaling laws and schedules.

Symbols: `B` tokens per step, `D` tokens of the run, η learning rate, λ weight decay; B_ref and D_ref are those of the
depth-12 run that the nominal rates were tuned at. Sources: B ∝ D^0.383 (arXiv 2505.13738); η ∝ √B;
constant τ = B/(η·λ·D) (arXiv 2405.13698), hence λ = λ_ref · √(B/B_ref) · D_ref/D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nanochat.flags import flag

# The run at depth 12 that the nominal rates were tuned at.
BATCH_REFERENCE = 1 << 19  # tokens per step
RATIO_REFERENCE = 12.0  # tokens per scaling parameter
BATCH_EXPONENT = 0.383
MOMENTUM_START, MOMENTUM_PEAK, MOMENTUM_END = 0.85, 0.97, 0.90
MOMENTUM_WARMUP_STEPS = 400


@dataclass
class HorizonFlags:
    """How long to train; the first that is set counts. The batch-size law goes by the tokens of the latter two."""

    num_iterations: int = flag(-1, "steps; -1 = from the two below", unit="steps")
    target_flops: float = flag(-1.0, "train for so many FLOPs; -1 = from the ratio below", unit="FLOPs")
    target_param_data_ratio: float = flag(RATIO_REFERENCE, "train for so many tokens per scaling parameter", unit="tokens per parameter")
    total_batch_size: int = flag(-1, "tokens per step; -1 = from the batch-size law", unit="tokens")
    batch_mult: float = flag(1.0, "multiplies the law's batch size, to whole micro-batches of all processes", unit="×")

    def __post_init__(self) -> None:
        if self.num_iterations < 1 and self.num_iterations != -1:
            raise ValueError(f"num_iterations is {self.num_iterations}; give at least 1, or -1")
        if not 0 < self.target_flops < math.inf and self.target_flops != -1:
            raise ValueError(f"target_flops is {self.target_flops}; it must be positive, or -1")
        if not 0 < self.target_param_data_ratio < math.inf:
            raise ValueError(f"target_param_data_ratio is {self.target_param_data_ratio}; it must be positive")
        if self.num_iterations > 0 and self.target_flops > 0:
            raise ValueError("num_iterations and target_flops both set the horizon; give one")
        if self.total_batch_size < 1 and self.total_batch_size != -1:
            raise ValueError(f"total_batch_size is {self.total_batch_size}; give at least 1, or -1")
        if not 0 < self.batch_mult < math.inf:
            raise ValueError(f"batch_mult is {self.batch_mult}; it must be positive")
        if self.total_batch_size > 0 and self.batch_mult != 1:
            raise ValueError("total_batch_size and batch_mult contradict each other; give one")


@dataclass
class ScheduleFlags:
    """How the rates move over the run."""

    warmup_steps: int = flag(40, "steps of linear warm-up", unit="steps")
    warmdown_ratio: float = flag(0.65, "share of the run, at its end, in which the rates fall", unit="of the run")
    warmdown_shape: Literal["linear", "cosine"] = flag("linear", "how they fall")
    final_lr_frac: float = flag(0.05, "what they fall to", unit="of the peak")

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must not be negative")
        if self.warmdown_shape not in ("linear", "cosine"):
            raise ValueError(f"warmdown_shape is {self.warmdown_shape!r}; it must be linear or cosine")
        for name in ("warmdown_ratio", "final_lr_frac"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0…1")


@dataclass(frozen=True)
class TrainPlan:
    """What the laws decide for a run."""

    total_batch_size: int  # tokens per step
    num_iterations: int
    lr_scale: float  # multiplies the nominal rates
    weight_decay_scale: float  # multiplies the nominal weight decay of matrices

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

    The batch of the law is the power of two nearest to it, but at least `rows_multiple` tokens (a micro-batch of all
    processes); `batch_mult` times that, to whole micro-batches. The weight decay goes by the tokens of the run as it will be,
    B × steps, so that τ is the same for every batch and horizon. Raises `ValueError` where the batch is not a multiple of
    `rows_multiple`.
    """
    reference_tokens = RATIO_REFERENCE * reference_parameters
    tokens = flags.target_flops / flops_per_token if flags.target_flops > 0 else flags.target_param_data_ratio * scaling_parameters
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
    reference_steps = max(1, round(reference_tokens / BATCH_REFERENCE))
    lr_scale = (B / BATCH_REFERENCE) ** 0.5
    return TrainPlan(B, steps, lr_scale, lr_scale * (BATCH_REFERENCE * reference_steps) / (tokens_before + B * steps))


def lr_multiplier(flags: ScheduleFlags, step: int, total: int) -> float:
    """Of step `step` (0 … total−1): linear warm-up, constant, then down to `final_lr_frac`; where both overlap, the lower."""
    rise = (step + 1) / flags.warmup_steps if step < flags.warmup_steps else 1.0
    height = 1 - _warmdown_progress(flags, step, total)
    if flags.warmdown_shape == "cosine":
        height = 0.5 - 0.5 * math.cos(math.pi * height)
    return min(rise, flags.final_lr_frac + (1 - flags.final_lr_frac) * height)


def _warmdown_progress(flags: ScheduleFlags, step: int, total: int) -> float:
    """0 up to the start of the warm-down, then rising to 1 after the last step."""
    warmdown = round(flags.warmdown_ratio * total)
    return max(0.0, 1 - (total - step) / warmdown) if warmdown else 0.0


def muon_momentum(flags: ScheduleFlags, step: int, total: int) -> float:
    """Rises over the first steps, as the running mean fills, and falls during the warm-down; where both overlap, the lower."""
    rise = MOMENTUM_START + (MOMENTUM_PEAK - MOMENTUM_START) * min(1.0, step / MOMENTUM_WARMUP_STEPS)
    return min(rise, MOMENTUM_PEAK + (MOMENTUM_END - MOMENTUM_PEAK) * _warmdown_progress(flags, step, total))


def weight_decay_multiplier(step: int, total: int) -> float:
    """A half cosine from 1 to 0 over the run."""
    return 0.5 + 0.5 * math.cos(math.pi * step / total)


@dataclass(frozen=True)
class Cadence:
    """Fires each time the token count passes a multiple of `every_tokens`; −1 and 0 are off.

    Raises `ValueError` below −1.
    """

    every_tokens: int

    def __post_init__(self) -> None:
        if self.every_tokens < -1:
            raise ValueError(f"every_tokens is {self.every_tokens}; give a number of tokens, or -1 for off")

    def due(self, before: int, after: int) -> bool:
        """Whether a multiple of `every_tokens` lies in (before, after], the token counts around one step."""
        assert 0 <= before <= after, f"token counts run forward, not from {before} to {after}"
        return self.every_tokens > 0 and after // self.every_tokens > before // self.every_tokens


def every_steps_to_tokens(every_steps: int, tokens_per_step: int) -> int:
    """The period of a `--…-every` flag in tokens; −1 and 0 stay off.

    Raises `ValueError` for a period below −1 or a step without tokens.
    """
    if every_steps < -1:
        raise ValueError(f"a period of {every_steps} steps makes no sense; give a number of steps, or -1 for off")
    if tokens_per_step < 1:
        raise ValueError(f"tokens_per_step is {tokens_per_step}; a step has at least one token")
    return every_steps * tokens_per_step if every_steps > 0 else -1
