"""The seam between training and what is trained: rows of tokens in, a loss and metrics out.

The trainer optimizes every parameter of the objective and checkpoints its whole state; it never asks which one it holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn as nn
from torch import Tensor

from nanochat.gpt import GPT
from nanochat.optim import OptimFlags, ParamGroup, gpt_groups
from nanochat.schedule import Plan


class StepResult(NamedTuple):
    """Loss of a micro-batch (fp32 scalar, differentiable) and detached scalar metrics by name."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Objective(nn.Module):
    """Turns `tokens` and `targets` (int64 [B,T]) into a `StepResult`; `model` is the language model within."""

    model: GPT

    def forward(self, tokens: Tensor, targets: Tensor, progress: float) -> StepResult:
        """`progress` is the share of the run that is done, 0 … 1."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def parameter_groups(self, flags: OptimFlags, plan: Plan) -> list[ParamGroup]:
        """Optimizer groups that hold each trainable parameter once, under its name in this module."""
        return gpt_groups(self.model, "model.", flags, plan)


class NextTokenObjective(Objective):
    """Plain language modelling: every token predicts the next."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, progress: float) -> StepResult:
        """See `Objective.forward`."""
        return StepResult(self.model(tokens, targets), {})
