"""Bidirectional transformer of GistNet and LensNet. Shapes: `N` sequences, `C` items, `H` heads, `D` width, `E` head size."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from nanochat.model.attention import full_attention
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

    def forward(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None) -> Tensor:
        """[N,C,D] → [N,C,D]; `mask` [1,C] is added to the attention scores. See `Encoder.forward`."""
        c_proj, mlp = self.c_proj, self.mlp
        return residual_block(x, lambda h: self._attend(h, rotary, mask), c_proj.add_to, mlp.c_fc, mlp.c_proj.add_to)

    def _attend(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None) -> Tensor:
        q, k, v = self.c_qkv(x).unflatten(-1, (3, -1, HEAD_DIM)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (place(q, rotary), place(k, rotary), v))  # (N, H, C, E)
        return full_attention(q, k, v, mask).transpose(1, 2).flatten(2)


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
        mask = None if seen is None else x.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        for block in self.blocks:
            x = block(x, rotary, mask)
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
