"""Telling a block's tokens from its gist: a loss that makes gists hold what a prediction may need later.

Shapes: `B` rows, `F` blocks, `K` tokens of a block, `S` slots, `D` width. Source of the idea: REFRAG's reconstruction (arXiv
2509.01092), here in one step for all tokens instead of one after the other.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from mc.layout.layout import Geometry
from mc.nets.encoder import init_linear
from nanochat.model.gpt import GPT, MLP, norm

SHARE = 4  # one block in so many is told in a micro-batch


class Reconstruction(nn.Module):
    """The decoder: a slot's vector and a place in its stride → the hidden state that the model's head reads a token from."""

    def __init__(self, width: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.places = nn.Parameter(torch.empty(geometry.stride(1), width))
        self.mlp = MLP(width)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Reconstruction:
        """Returns self."""
        nn.init.normal_(self.places, generator=generator)
        init_linear(self.mlp.c_fc.weight, generator, 0.4)
        nn.init.zeros_(self.mlp.c_proj.weight)
        return self

    def forward(self, model: GPT, gists: Tensor, tokens: Tensor, first: int) -> Tensor:
        """Mean cross-entropy, fp32 scalar, of the tokens int64 [B, F·K] told from the gists [B, F·S, D] of one in `SHARE` blocks,
        counted from block `first`."""
        K, S = self.geometry.block_size, self.geometry.slots
        gists = gists.unflatten(1, (-1, S))[:, first % SHARE :: SHARE]  # (B, f, S, D)
        tokens = tokens.unflatten(1, (-1, K))[:, first % SHARE :: SHARE]  # (B, f, K)
        x = norm(gists[:, :, :, None] + self.places.to(gists.dtype))  # (B, f, S, K/S, D)
        hidden = norm(x + self.mlp(x))
        return model.loss(hidden.flatten(1, 3), tokens.flatten(1))
