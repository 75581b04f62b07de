"""Gist losses: distillation of the plain row into its variants, and reconstruction of a block's tokens from its gist.

Shapes: `V` variants, `B` rows, `P` predictions that both make, `D` width. Source of the idea of distillation: Cartridges, arXiv
2506.06266.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mc.layout.layout import Geometry
from mc.nets.encoder import init_linear
from nanochat.model.block import MLP
from nanochat.model.cross_entropy import CHUNK_BYTES
from nanochat.model.gpt import GPT, norm

SHARE = 4  # a micro-batch reconstructs one in SHARE blocks


def distillation_loss(model: GPT, teacher: Tensor, student: Tensor) -> Tensor:
    """Context distillation: mean KL(teacher ‖ student) of predictions at hidden states [B,P,D] and [V,B,P,D], in nats, fp32.

    The teacher gets no gradient. Logits are computed in chunks, and again in the backward pass.
    """
    V, D = student.shape[0], student.shape[-1]
    teacher, student = teacher.detach().reshape(-1, D), student.reshape(V, -1, D)
    budget = CHUNK_BYTES.get(teacher.device.type, CHUNK_BYTES["cpu"])
    size = max(1, budget // (4 * (V + 1) * model.config.vocab_size))
    total = teacher.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(teacher), size):
        chunk = slice(begin, begin + size)
        total = total + checkpoint(_divergence, model, teacher[chunk], student[:, chunk], use_reentrant=False)
    return total / (V * len(teacher))


def _divergence(model: GPT, teacher: Tensor, student: Tensor) -> Tensor:
    with torch.no_grad():
        reference = model.logits(teacher).log_softmax(-1)
    mine = model.logits(student).log_softmax(-1)
    return (reference.exp() * (reference - mine)).sum()


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
