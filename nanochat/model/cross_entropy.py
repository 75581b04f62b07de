"""Softcapped cross-entropy of a linear head in chunks: the `[N, V]` logits never exist all at once, nor in fp32.

Shapes: `N` predictions, `D` width, `V` vocabulary. The logit is `z = c·tanh(w·x / c)`, so |z| ≤ c and `exp(z)` needs no
maximum subtracted first. For a mean loss the gradients are computed in the forward, while a chunk's logits exist: three
matmuls per chunk instead of the four of a backward that recomputes the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SOFTCAP = 15.0
IGNORE = -1  # value of targets that are left out of the loss
CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}  # of logits: fits a CPU's last-level cache, fills a GPU


def softcap(logits: Tensor) -> Tensor:
    """`c·tanh(logits / c)` in fp32, within ±15 (Gemma 2, arXiv 2408.00118)."""
    return SOFTCAP * torch.tanh(logits.float() / SOFTCAP)


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy of all logits at once: simple, and fast if there is enough memory. See `ChunkedCrossEntropy`."""
    losses = F.cross_entropy(softcap(F.linear(hidden, weight)), targets, ignore_index=IGNORE, reduction="none")
    return _reduced(losses, targets, reduction)


def _reduced(losses: Tensor, targets: Tensor, reduction: str) -> Tensor | tuple[Tensor, Tensor]:
    if reduction == "none":
        return losses
    mean = losses.sum() / _count(targets)
    return (mean, losses.detach()) if reduction == "both" else mean


def _count(targets: Tensor) -> Tensor:
    """Divisor of a mean loss: the number of targets that are not `IGNORE`, at least 1.

    A micro-batch without targets (they occur in fine-tuning) thus has zero loss and gradient instead of NaN.
    """
    return (targets != IGNORE).sum().clamp(min=1)


class ChunkedCrossEntropy:
    """`(hidden [N,D], weight [V,D], targets int64 [N]) → loss`, differentiable in hidden and weight.

    hidden and weight have the compute dtype. `reduction`: `mean` = over the targets that are not `IGNORE` (fp32 scalar, 0 if there
    are none); `none` = per target (fp32 [N], 0 if ignored); `both` = the mean, and the losses per target without gradient, at the
    cost of the mean. `compiled` fuses the arithmetic between the matmuls.
    """

    def __init__(self, compiled: bool) -> None:
        fuse: Callable = torch.compile if compiled else lambda f, **_: f
        # The compiler makes the size dynamic when it sees a second one: that of the last chunk.
        self._sum_exp = fuse(_sum_exp)
        self._sum_and_slope = fuse(_sum_and_slope)

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor | tuple[Tensor, Tensor]:
        # In fp16 the logits' gradient underflows if it is rounded before the loss scale is applied, as in `_Mean`.
        if reduction == "none" or hidden.dtype == torch.float16:
            return _reduced(_PerToken.apply(hidden, weight, targets, self), targets, reduction)
        mean, losses = _Mean.apply(hidden, weight, targets, self)
        return (mean, losses) if reduction == "both" else mean

    def losses(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Losses per target, fp32 [N], without gradient."""
        losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        for rows in _chunks(hidden, weight):
            logits = F.linear(hidden[rows], weight)
            losses[rows], _ = _at_target(logits, targets[rows], self._sum_exp(logits))
        return losses

    def gradients(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, by_weight: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(losses fp32 [N], gradients of Σ scale·loss: of hidden [N,D], of weight [V,D] or None); `scale` is fp32 [N], 0 if ignored."""
        # Before the division by the normaliser, gradients are too large for fp16.
        dtype = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
        losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        dhidden = torch.empty_like(hidden)
        dweight: Tensor | None = None
        for rows in _chunks(hidden, weight):
            x = hidden[rows]
            logits = F.linear(x, weight)
            normalizer, slope = self._sum_and_slope(logits, dtype)
            losses[rows], at_target = _at_target(logits, targets[rows], normalizer)
            # Not scatter_, which on a CPU copies the whole tensor twice.
            slope[torch.arange(len(x), device=x.device), targets[rows].clamp(min=0)] = at_target.to(dtype)
            # ∂/∂logits is `slope` with each row multiplied by this, which is cheaper on [n, D] than on [n, V].
            factor = (scale[rows] / normalizer)[:, None]
            dhidden[rows] = (slope @ weight.to(dtype)) * factor
            if by_weight:
                share = slope.t() @ (x * factor).to(dtype)
                dweight = share.float() if dweight is None else dweight.add_(share)  # chunks are summed in fp32
        return losses, dhidden, None if dweight is None else dweight.to(weight.dtype)


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    budget = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    size = max(1, budget // (weight.shape[0] * weight.element_size()))
    for start in range(0, hidden.shape[0], size):
        yield slice(start, min(start + size, hidden.shape[0]))


def tanh_exp(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(u, exp(c·u)) with u = tanh(logits / c), fp32. tanh computed by exp takes half the time on a CPU; error ≤ 2e-7."""
    u = 1 - 2 / (torch.exp(logits.float() * (2 / SOFTCAP)) + 1)
    return u, torch.exp(u * SOFTCAP)


def _sum_exp(logits: Tensor) -> Tensor:
    return tanh_exp(logits)[1].sum(-1)


# The target is left to `_at_target`: a gather here would keep the compiler from vectorising.
def _sum_and_slope(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(Σ exp(z) [n], exp(z)·∂z/∂logit [n,V] in `dtype`), in one pass."""
    u, e = tanh_exp(logits)
    return e.sum(-1), (e * (1 - u * u)).to(dtype)


def _at_target(logits: Tensor, targets: Tensor, normalizer: Tensor) -> tuple[Tensor, Tensor]:
    """(losses fp32 [n], values of the slope at the targets [n])."""
    u, e = tanh_exp(logits.gather(1, targets.clamp(min=0)[:, None])[:, 0])
    losses = torch.where(targets == IGNORE, 0.0, normalizer.log() - SOFTCAP * u)
    return losses, (e - normalizer) * (1 - u * u)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, head):
        scale = (targets != IGNORE).float() / _count(targets)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            losses, *gradients = head.gradients(hidden, weight, targets, scale, ctx.needs_input_grad[1])
            ctx.save_for_backward(*gradients)
        else:
            losses = head.losses(hidden, weight, targets)
        ctx.mark_non_differentiable(losses)
        return losses.dot(scale), losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        dhidden, dweight = ctx.saved_tensors
        # In place: nothing else uses the buffers, and a second backward is an error anyway.
        return dhidden.mul_(grad), None if dweight is None else dweight.mul_(grad), None, None


class _PerToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, head):
        ctx.head = head
        ctx.save_for_backward(hidden, weight, targets)
        return head.losses(hidden, weight, targets)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, targets = ctx.saved_tensors
        scale = torch.where(targets == IGNORE, 0.0, grad.float())
        _, dhidden, dweight = ctx.head.gradients(hidden, weight, targets, scale, ctx.needs_input_grad[1])
        return dhidden, dweight, None, None
