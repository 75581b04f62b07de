"""Training beside a model: what is recorded gives its parameters no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor

from mc.memory_model import PlainRows
from nanochat.model.gpt import GPT, Embedded


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Within it, no parameter of `model` requires a gradient; what was recorded before keeps its own."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def some_rows(plain: PlainRows, rows: Tensor) -> PlainRows:
    """The `rows` int64 [R] of plain rows, without gradients."""

    def chosen(part: Tensor) -> Tensor:
        return part.detach()[rows]

    embedded = Embedded(*map(chosen, plain.embedded))
    return PlainRows(
        plain.tokens[rows], embedded, chosen(plain.hidden), chosen(plain.middle), [chosen(x) for x in plain.inputs], plain.rotary
    )


def frozen_copy(model: GPT) -> GPT:
    """A copy of `model` on its device that does not learn."""
    with torch.device("meta"):
        copy = GPT(model.config, model.dtype, model.backend)
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return copy.requires_grad_(False)
