"""Transformer block and its parts: linear maps, rotary positions, attention, MLP.

Shapes: `B` rows, `T` positions, `D` width, `H` query heads, `G` key/value heads, `E` head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.attention import AttentionBackend, AttentionHook, MemoryEntries, attention, attention_with_memory
from nanochat.model.norm import norm
from nanochat.model.recompute import Recompute, recomputed

GATE_CHANNELS = 12  # channels of the input that a value-embedding gate reads
VALUE_GAIN = 3.0  # scale of the sigmoid in these gates
QK_GAIN = 1.2  # scale of normalised queries and of keys: sharper attention
ROTARY_BASE = 100_000.0

Function = Callable[[Tensor], Tensor]
Add = Callable[[Tensor, Tensor], Tensor]  # (x, h) → x + f(h): a linear map with a residual connection


def residual_block(x: Tensor, attend: Function, add_attn: Add, fc: Function, add_mlp: Add, normalise: Function = norm) -> Tensor:
    """Pre-norm transformer block, given its linear maps: attention, then an MLP."""
    x = add_attn(x, attend(normalise(x)))
    return add_mlp(x, relu_squared(fc(normalise(x))))


def relu_squared(h: Tensor) -> Tensor:
    """Activation of the MLPs (Primer, arXiv 2109.08668); without gradients in place."""
    return F.relu(h).square() if torch.is_grad_enabled() else h.relu_().square_()


class Linear(nn.Linear):
    """Linear map without bias: fp32 weights, computed in the dtype of the input."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        """x + self(h)."""
        return x + self(h)


class Rotary(NamedTuple):
    """Rotation of each position: cos and sin, (B or 1, T, 1, E/2) in the compute dtype."""

    cos: Tensor
    sin: Tensor


def rotary_frequencies(head_dim: int, device: torch.device | str) -> Tensor:
    """Radians by which each pair of channels rotates from one position to the next, fp32 [E/2]."""
    return ROTARY_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def rotary_angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Angles [..., E/2] at `positions` [...], within one turn; in fp32, products of millions would be off by a radian."""
    wide = torch.float32 if positions.device.type == "mps" else torch.float64  # MPS has no fp64
    return (positions.to(wide).unsqueeze(-1) * frequencies).remainder(2 * math.pi).float()


def rotary_at(positions: Tensor, head_dim: int, dtype: torch.dtype) -> Rotary:
    """Standard RoPE at `positions` ((T,) or (B,T), any numeric dtype)."""
    angles = rotary_angles(positions, rotary_frequencies(head_dim, positions.device))
    angles = (angles if angles.ndim == 3 else angles[None]).unsqueeze(2)  # (B or 1, T, 1, E/2)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotates the two halves of each head, x (B, T, heads, E), by the angles of its position (RoFormer, arXiv 2104.09864)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * rotary.cos - b * rotary.sin, b * rotary.cos + a * rotary.sin], dim=-1)


def place(x: Tensor, rotary: Rotary | None, normalise: Function = norm) -> Tensor:
    """Projected queries or keys (B, T, heads, E): normalised, scaled and, with `rotary`, rotated."""
    x = normalise(x) * QK_GAIN
    return x if rotary is None else rotate(x, rotary)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys; `gated`: with value embeddings."""

    def __init__(self, layer: int, width: int, head_dim: int, key_heads: int, gated: bool) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, head_dim
        self.c_q = Linear(width, width)
        self.c_k = Linear(width, key_heads * head_dim)
        self.c_v = Linear(width, key_heads * head_dim)
        self.c_proj = Linear(width, width)
        self.value_gate = Linear(GATE_CHANNELS, key_heads) if gated else None
        self.norm: Function = norm

    def forward(
        self,
        x: Tensor,
        values: Tensor | None,
        rotary: Rotary,
        window: int,
        backend: AttentionBackend,
        attn_hook: AttentionHook | None = None,
        memory: MemoryEntries | None = None,
    ) -> Tensor:
        """Output of the heads [B,T,D], before `c_proj`; see `GPT.backbone`."""
        # For a token or two, joining the matrices would cost more than multiplying by them.
        q, k, v = self.heads(x, values, rotary, joined=attn_hook is None)
        if memory is not None:
            return attention_with_memory(q, k, v, window, memory).reshape(x.shape)
        if attn_hook is not None:
            return attn_hook.attend(self.layer, q, k, v, window, backend).reshape(x.shape)
        return attention(q, k, v, window, backend).reshape(x.shape)

    def heads(self, x: Tensor, values: Tensor | None, rotary: Rotary, joined: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B,T,H,E], keys and values [B,T,G,E] of x [B,T,D]; `joined`: in one matmul instead of three."""
        B, T, D = x.shape
        if joined:
            # The optimizer still sees three matrices.
            weight = torch.cat([self.c_q.weight, self.c_k.weight, self.c_v.weight]).to(x.dtype)
            kv = self.c_k.weight.shape[0]
            q, k, v = F.linear(x, weight).split([D, kv, kv], dim=-1)
        else:
            q, k, v = self.c_q(x), self.c_k(x), self.c_v(x)
        q, k, v = (part.view(B, T, -1, self.head_dim) for part in (q, k, v))
        if values is not None:
            v = v + (VALUE_GAIN * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))).unsqueeze(-1) * values
        return place(q, rotary, self.norm), place(k, rotary, self.norm), v


class MLP(nn.Module):
    """Two matrices around a squared ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(relu_squared(self.c_fc(x)))


class Block(nn.Module):
    """Layer of the language model: mixes the embedding into the residual stream, then attention and MLP."""

    def __init__(self, layer: int, width: int, head_dim: int, key_heads: int, gated: bool) -> None:
        super().__init__()
        self.attn = Attention(layer, width, head_dim, key_heads, gated)
        self.mlp = MLP(width)
        self.norm: Function = norm
        self.recompute: Recompute = "none"

    def heads(self, x: Tensor, x0: Tensor, scales: Tensor, values: Tensor | None, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the layer (see `Attention.heads`)."""
        return self.attn.heads(self.norm(scales[0] * x + scales[1] * x0), values, rotary)

    def forward(self, x: Tensor, x0: Tensor, scales: Tensor, *inputs) -> Tensor:
        """`scales` [2] are those of x and x0 [B,T,D]; `inputs` are the other arguments of `Attention.forward`."""
        return recomputed(self, self._forward, self.recompute, x, x0, scales, *inputs)

    def _forward(self, x: Tensor, x0: Tensor, scales: Tensor, *inputs) -> Tensor:
        mixed = scales[0] * x + scales[1] * x0
        attn, mlp = self.attn, self.mlp
        return residual_block(mixed, lambda h: attn(h, *inputs), attn.c_proj.add_to, mlp.c_fc, mlp.c_proj.add_to, self.norm)
