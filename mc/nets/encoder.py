"""Bidirectional transformer of GistNet and LensNet. Shapes: `N` sequences, `C` items, `H` heads, `D` width, `E` head size."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.block import MLP, Linear, Rotary, place, residual_block
from nanochat.model.norm import norm

HEAD_DIM = 32  # head size of the memory's networks, whose widths are multiples of it


class EncoderBlock(nn.Module):
    """Bidirectional attention with normalised queries and keys, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_qkv = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, rotary: Rotary | None, seen: Tensor | None = None) -> Tensor:
        """[N,C,D] → [N,C,D]; see `Encoder.forward`."""
        return residual_block(x, lambda h: self._attend(h, rotary, seen), self.c_proj, self.mlp.c_fc, self.mlp.c_proj)

    def _attend(self, x: Tensor, rotary: Rotary | None, seen: Tensor | None) -> Tensor:
        N, C, D = x.shape
        q, k, v = self.c_qkv(x).view(N, C, 3, D // HEAD_DIM, HEAD_DIM).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (place(q, rotary), place(k, rotary), v))  # (N, H, C, E)
        return _attention(q, k, v, seen).transpose(1, 2).reshape(N, C, D)


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Attention over all items, q, k and v [N,H,C,E], or over those that are True in `seen` [1,C]."""
    if q.device.type == "cpu" and q.dtype != torch.float32 and not torch.is_grad_enabled():
        # PyTorch's fused CPU kernel takes twice as long in bf16.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
        return torch.matmul((scores if seen is None else scores.masked_fill_(~seen, -torch.inf)).softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class Encoder(nn.Module):
    """Stack of `layers` blocks; `width` is a multiple of `HEAD_DIM`."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        assert width % HEAD_DIM == 0
        self.blocks = nn.ModuleList(EncoderBlock(width) for _ in range(layers))

    def forward(self, x: Tensor, rotary: Rotary | None = None, seen: Tensor | None = None) -> Tensor:
        """[N,C,D] → normalised [N,C,D]. `rotary` gives the items positions; without it they are a set.

        Items that are False in `seen`, bool [1,C], are masked.
        """
        for block in self.blocks:
            x = block(x, rotary, seen)
        return norm(x)


@torch.no_grad()
def init_linear(weight: Tensor, generator: torch.Generator | None, gain: float = 1.0) -> None:
    """Initialises uniformly with standard deviation `gain / √fan_in`."""
    bound = gain * (3 / weight.shape[1]) ** 0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)


@torch.no_grad()
def init_encoder(encoder: Encoder, generator: torch.Generator | None) -> None:
    """Initialises like the language model's layers: output projections are zero, so that every layer starts as the identity."""
    for block in encoder.blocks:
        init_linear(block.c_qkv.weight, generator)
        init_linear(block.mlp.c_fc.weight, generator, 0.4)
        nn.init.zeros_(block.c_proj.weight)
        nn.init.zeros_(block.mlp.c_proj.weight)
