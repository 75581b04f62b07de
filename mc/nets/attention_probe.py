"""Attention mass: how much attention some positions pay to each position, computed after a forward.

Shapes: `B` rows, `T` positions, `O` groups of `Q` queries, `H` query heads, `G` key heads, `E` head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanochat.model.attention import visible
from nanochat.model.block import Rotary, place
from nanochat.model.gpt import GPT, Embedded
from nanochat.model.norm import norm


@torch.no_grad()
def attention_mass(model: GPT, embedded: Embedded, inputs: list[Tensor], queries: Tensor, weights: Tensor | None = None) -> Tensor:
    """Attention that groups of queries pay to each position of plain rows, fp32 [O,B,T], averaged over heads and layers.

    `queries` int64 [O,Q] are the positions of each group. `inputs` is the residual stream before each layer (see `GPT.layers`), from
    which queries and keys are recomputed. `weights`, fp32 [O,B,Q], are those of a group's queries; by default the mean, which sums
    to 1 per row.
    """
    B, T, _ = embedded.x.shape
    groups, Q = queries.shape
    if weights is None:
        weights = torch.full((groups, B, Q), 1 / Q, device=embedded.x.device)
    rotary = model.rotary(0, T)
    key = torch.arange(T, device=embedded.x.device)
    mass = torch.zeros(groups, B, T, device=embedded.x.device)
    for i, (block, x, window) in enumerate(zip(model.blocks, inputs, model.windows, strict=True)):
        E, G = block.attn.head_dim, model.config.key_heads
        h = norm(model.resid_lambdas[i].to(x.dtype) * x + model.x0_lambdas[i].to(x.dtype) * embedded.x)
        k = place(block.attn.c_k(h).unflatten(-1, (G, E)), rotary)
        for group, at in enumerate(queries):
            turned = Rotary(rotary.cos[:, at], rotary.sin[:, at])
            q = place(block.attn.c_q(h[:, at]).unflatten(-1, (-1, E)), turned).unflatten(2, (G, -1))  # (B, Q, G, H/G, E)
            scores = torch.einsum("bqgre,btge->bgrqt", q, k).float() * E**-0.5
            seen = visible(at[:, None], key, window)
            attended = scores.masked_fill(~seen, -math.inf).softmax(-1).mean((1, 2))  # (B, Q, T)
            mass[group] += torch.einsum("bqt,bq->bt", attended, weights[group])
    return mass / len(inputs)
