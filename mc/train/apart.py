"""Training beside a model: what is recorded gives its parameters no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mc.memory_model import PlainRows
from nanochat.model.gpt import GPT, Embedded


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
