"""RMSNorm without parameters: PyTorch's, and a fused autograd function.

y = x / √(mean(x²) + ε) over the last dimension (arXiv 1910.07467). With r = 1/√(mean(x²) + ε) and the gradient g of y,
∂x = r · (g − y · mean(g · y)): the backward needs only x and one number per row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = torch.finfo(torch.float32).eps  # default of `F.rms_norm` in fp32


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters."""
    return F.rms_norm(x, (x.shape[-1],))


def fused_norm(x: Tensor) -> Tensor:
    """`norm`, up to rounding, as an autograd function that saves only x and fp32 [..., 1] for the backward.

    Helps uncompiled code on a CPU. Compiled layers fuse either one, and on CUDA PyTorch's is a single kernel.
    """
    return _FusedNorm.apply(x)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
        inverse = torch.rsqrt(square / x.shape[-1] + EPSILON)
        ctx.save_for_backward(x, inverse)
        return (x * inverse).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, inverse = ctx.saved_tensors
        y = x * inverse
        share = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad.to(y.dtype), y, share, value=-1).mul_(inverse).to(x.dtype)
