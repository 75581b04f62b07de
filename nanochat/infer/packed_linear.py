"""Weight prepacked for small-batch matmuls (oneDNN reorder, bf16 on CPU)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PackedLinear:
    """Linear map with `weight` [N,K] in `dtype`: a copy, unless it has that dtype and needs no packing.

    On a CPU, oneDNN reorders a plain bf16 weight in each product, which for few rows takes as long as the product. Here it is done
    once; fp32 gains nothing.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._weight = weight.detach().to(dtype)
        self._packed = weight.device.type == "cpu" and dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
        if self._packed:
            # The operators that compiled code uses.
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())

    def __call__(self, x: Tensor) -> Tensor:
        """x·weightᵀ [B,N] in `dtype` for x [B,K]."""
        x = x.to(self.dtype)
        if self._packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return F.linear(x, self._weight)

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        """x + h·weightᵀ in the dtype of x [B,N], for h [B,K]."""
        return torch.addmm(x, h, self._weight.t()) if x.dtype == h.dtype == self.dtype else x + self(h)
