"""Embedding with fp32 weights for activations of another dtype: training casts its table once per step, not the rows of every token."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class CastEmbedding(nn.Embedding):
    """Embedding whose rows are looked up in a given dtype; results and gradients are those of a lookup in fp32 that is cast after it.

    Whoever writes the weights past autograd (`.data`) must call `torch.autograd.graph.increment_version` on them.
    """

    cast_once: bool = True  # False: the rows of every lookup are cast, if the weights are there for one only
    _of: tuple[int, int, torch.dtype] | None = None  # address, version and dtype of what `_table` was cast from
    _table: Tensor | None = None

    def rows(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of `tokens`, int64 of any shape [...] → [..., channels] in `dtype`."""
        if not self.cast_once or dtype == self.weight.dtype or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return F.embedding(tokens, self.weight).to(dtype)
        return _Lookup.apply(self.weight, self._cast(dtype), tokens)

    def _cast(self, dtype: torch.dtype) -> Tensor:
        of = self.weight.data_ptr(), self.weight._version, dtype
        if of != self._of:
            self._of, self._table = of, self.weight.detach().to(dtype)
        return self._table


class _Lookup(torch.autograd.Function):
    """Rows of a cast `table`, with the gradient of the `weight` it was cast from."""

    @staticmethod
    def forward(ctx, weight: Tensor, table: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.count, ctx.dtype = weight.shape[0], weight.dtype
        return F.embedding(tokens, table)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        return torch.ops.aten.embedding_dense_backward(grad.to(ctx.dtype), tokens, ctx.count, -1, False), None, None
