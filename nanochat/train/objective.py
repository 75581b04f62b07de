"""Objective: the interface that the trainer optimizes (tokens and targets → loss and metrics).

The trainer optimizes every parameter of the objective and checkpoints its whole state, whichever objective it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn as nn
from torch import Tensor

from nanochat.model.gpt import GPT
from nanochat.profiling.timers import OpenSpan, untimed
from nanochat.train.optim import OptimFlags, ParamGroup, gpt_groups
from nanochat.train.schedule import TrainPlan

Metrics = dict[str, Tensor | float]  # by name: detached scalars, or plain numbers


class StepResult(NamedTuple):
    """Loss of a micro-batch (fp32 scalar, differentiable) and its metrics.

    The trainer logs each metric's mean over the micro-batches of a step and all processes, leaving out NaN. `apart` is a further loss
    whose gradients reach only the parameters of optimizer groups that are `apart`; it is no part of the logged loss.
    """

    loss: Tensor
    metrics: Metrics
    apart: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """What is differentiated."""
        return self.loss if self.apart is None else self.loss + self.apart


class Objective(nn.Module):
    """Base class: turns `tokens` and `targets` (int64 [B,T]) into a `StepResult`; `model` is the language model in it.

    `spans` times parts of the forward, as in `with self.spans("lens"):`; the trainer sets it.
    """

    model: GPT
    spans: OpenSpan = staticmethod(untimed)

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """Loss and metrics; `progress` is the fraction of the run done, 0 … 1; `weights`, fp32 [B], multiply the rows' losses."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def parameter_groups(self, flags: OptimFlags, plan: TrainPlan) -> list[ParamGroup]:
        """Optimizer groups, with each trainable parameter once, under its name in this module."""
        return gpt_groups(self.model, "model.", flags, plan)

    def flops_per_token(self) -> float:
        """FLOPs of training on one token of a row: forward and backward."""
        return self.model.flops_per_token()

    def figures(self, spans_ms: dict[str, float], grad_accum_steps: int) -> dict[str, float]:
        """Metrics of an interval, from the milliseconds per step in each span and the micro-batches per step."""
        return {}


class NextTokenObjective(Objective):
    """Next-token prediction."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        hidden = self.model.backbone(self.model.embed(tokens), self.model.rotary(0, tokens.shape[1]))
        return StepResult(self.model.loss(hidden, targets, weights=weights), {})
