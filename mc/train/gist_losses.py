"""Gist losses: distillation of the plain row into its variants, and reconstruction of a block's tokens from its gist.

Shapes: `V` variants, `B` rows, `P` predictions that both make, `N` = B·P, `D` width, `C` vocabulary. Source of the idea of
distillation: Cartridges, arXiv 2506.06266.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mc.layout.layout import Geometry
from mc.nets.encoder import init_linear
from nanochat.model.block import MLP
from nanochat.model.cross_entropy import CHUNK_BYTES, IGNORE, SOFTCAP, softcap, tanh_exp
from nanochat.model.gpt import GPT, norm

SHARE = 4  # a micro-batch reconstructs one in SHARE blocks


class Distillation:
    """Context distillation: (mean KL(teacher ‖ student) in nats, fp32; the student's losses without gradient, fp32 [V,B,P]).

    Called with the students' hidden states [V,B,P,D] and the head's weight [C,D], both in the compute dtype, those of the teacher
    ([B,P,D], without gradient), and targets int64 [B,P]. Gradients are computed in the forward, chunk by chunk. `compiled` fuses the
    arithmetic between the matmuls.
    """

    def __init__(self, compiled: bool = False) -> None:
        fuse: Callable = torch.compile if compiled else lambda f: f
        self.masses, self.slopes = fuse(_masses), fuse(_slopes)

    def __call__(self, student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        flat = student.flatten(1, 2), weight, teacher.detach().flatten(0, 1), teacher_weight.detach(), targets.flatten()
        divergence, losses = _Divergence.apply(*flat, self)
        return divergence, losses.view(student.shape[:-1])


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, weight, teacher, teacher_weight, targets, distillation):
        V, N, D = student.shape
        dtype = torch.float32 if student.dtype == torch.float16 else student.dtype  # before the scaling, too large for fp16
        losses = student.new_empty(V, N, dtype=torch.float32)
        total = student.new_zeros((), dtype=torch.float32)
        by_student, by_weight = ctx.needs_input_grad[:2]
        dstudent = torch.empty_like(student) if by_student else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        size = max(1, CHUNK_BYTES.get(student.device.type, CHUNK_BYTES["cpu"]) // (4 * (V + 1) * len(weight)))
        for begin in range(0, N, size):
            rows = slice(begin, begin + size)
            x = student[:, rows].reshape(-1, D)
            logits = F.linear(x, weight).view(V, -1, len(weight))
            reference = F.linear(teacher[rows], teacher_weight)
            normalizer, mass, cross = distillation.masses(logits, reference)
            total += (cross / mass - mass.log() + normalizer.log()).sum()
            wanted = targets[rows].clamp(min=0).expand(V, -1).unsqueeze(-1)
            at_target = softcap(logits.gather(-1, wanted))
            losses[:, rows] = torch.where(targets[rows] == IGNORE, 0.0, (normalizer.log() - at_target).squeeze(-1))
            if by_student or by_weight:
                slope = distillation.slopes(logits, reference, normalizer, mass, dtype).flatten(0, 1)
            if by_student:
                dstudent[:, rows] = ((slope @ weight.to(dtype)) / (V * N)).view(V, -1, D)
            if by_weight:
                dweight += (slope.t() @ x.to(dtype)).float() / (V * N)
        ctx.save_for_backward(dstudent, None if dweight is None else dweight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return total / (V * N), losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        dstudent, dweight = ctx.saved_tensors
        return None if dstudent is None else dstudent * grad, None if dweight is None else dweight * grad, None, None, None, None


def _masses(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Σ exp(z) [V,n,1], that of the reference [n,1], Σ exp(reference) · (reference − z) [V,n,1]) of logits [V,n,C] and [n,C].

    Softcapped logits are within ±15, so that `exp` needs no maximum subtracted first.
    """
    (mine, student), (wanted, teacher) = tanh_exp(logits), tanh_exp(reference)
    return student.sum(-1, keepdim=True), teacher.sum(-1, keepdim=True), (teacher * (wanted - mine)).sum(-1, keepdim=True) * SOFTCAP


# A pass of its own: its inputs fit the cache, and exponentials are cheaper than storing them.
def _slopes(logits: Tensor, reference: Tensor, normalizer: Tensor, mass: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient [V,n,C] in `dtype` of the sum of the divergences by the logits."""
    (mine, student), (_, teacher) = tanh_exp(logits), tanh_exp(reference)
    return ((student / normalizer - teacher / mass) * (1 - mine * mine)).to(dtype)


class Reconstruction(nn.Module):
    """Decoder from a slot's vector and a place in its stride to the hidden state from which the model's head predicts the token."""

    def __init__(self, width: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.places = nn.Parameter(torch.empty(geometry.stride(1), width))
        self.mlp = MLP(width)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Reconstruction:
        """Initialises the decoder. Returns self."""
        nn.init.normal_(self.places, generator=generator)
        init_linear(self.mlp.c_fc.weight, generator, 0.4)
        nn.init.zeros_(self.mlp.c_proj.weight)
        return self

    def forward(self, model: GPT, gists: Tensor, tokens: Tensor, first: int) -> Tensor:
        """Mean cross-entropy, fp32 scalar, of the tokens int64 [B, F·K] given the gists [B, F·S, D], of one in `SHARE` blocks from
        block `first` on."""
        K, S = self.geometry.block_size, self.geometry.slots
        gists = gists.unflatten(1, (-1, S))[:, first % SHARE :: SHARE]  # (B, f, S, D)
        tokens = tokens.unflatten(1, (-1, K))[:, first % SHARE :: SHARE]  # (B, f, K)
        x = norm(gists[:, :, :, None] + self.places.to(gists.dtype))  # (B, f, S, K/S, D)
        hidden = norm(x + self.mlp(x))
        return model.loss(hidden.flatten(1, 3), tokens.flatten(1))
