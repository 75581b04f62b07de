"""Attention seen from outside the model: eager for shapes that change from call to call, and counted where it goes.

Shapes: `B` rows, `T` positions, `O` groups of `Q` queries, `H` query heads, `G` key heads, `E` head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanochat.model.gpt import GPT, Embedded, Rotary, norm, place


@torch.no_grad()
def attention_mass(model: GPT, embedded: Embedded, inputs: list[Tensor], queries: Tensor, weights: Tensor | None = None) -> Tensor:
    """How much attention groups of positions of plain rows pay to each position, fp32 [O,B,T], averaged over heads and layers.

    `queries` int64 [O,Q] are the positions of each group. `inputs` is the stream before each layer, as `GPT.layers` gives it:
    queries and keys are made of it once more, and nothing else. Summed over a group with `weights`, fp32 [O,B,Q]; by default
    their mean, and a row of it sums to 1.
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
        scales = (model.resid_lambdas[i].to(x.dtype), model.x0_lambdas[i].to(x.dtype))
        h = norm(scales[0] * x + scales[1] * embedded.x)
        k = place(block.attn.c_k(h).unflatten(-1, (G, E)), rotary)
        for group, at in enumerate(queries):
            there = Rotary(rotary.cos[:, at], rotary.sin[:, at])
            q = place(block.attn.c_q(h[:, at]).unflatten(-1, (-1, E)), there).unflatten(2, (G, -1))  # (B, Q, G, H/G, E)
            scores = torch.einsum("bqgre,btge->bgrqt", q, k).float() * E**-0.5
            hidden = key > at[:, None]
            if window > 0:
                hidden = hidden | (key <= at[:, None] - window)
            attended = scores.masked_fill(hidden, -math.inf).softmax(-1).mean((1, 2))  # (B, Q, T)
            mass[group] += torch.einsum("bqt,bq->bt", attended, weights[group])
    return mass / len(inputs)
