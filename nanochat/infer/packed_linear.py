"""A weight matrix that few rows are multiplied by, again and again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PackedLinear:
    """`weight` [N,K] in `dtype`, arranged for speed; a copy of it, unless it is that already.

    A CPU's oneDNN brings a plain matrix in bf16 into its own order at each product, which for few rows takes as long as the
    product itself. Here it is done once. In fp32 it does not pay.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._weight = weight.detach().to(dtype)
        self._packed = weight.device.type == "cpu" and dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
        if self._packed:
            # The operations that compiled code uses.
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())

    def __call__(self, x: Tensor) -> Tensor:
        """x·weightᵀ [B,N] in `dtype` for x [B,K]."""
        x = x.to(self.dtype)
        if self._packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return F.linear(x, self._weight)

    def add_to(self, sum: Tensor, x: Tensor) -> Tensor:
        """sum + x·weightᵀ in the dtype of `sum` [B,N]."""
        return torch.addmm(sum, x, self._weight.t()) if sum.dtype == x.dtype == self.dtype else sum + self(x)
