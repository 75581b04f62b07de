"""Attention seen from outside the model: eager for shapes that change from call to call, and counted where it goes.

Both stand where a KV cache would. A model asks its cache to attend, and runs its layers uncompiled for it.
Shapes: `B` rows, `T` positions, `Q` queries, `H` query heads, `G` key heads, `E` head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanochat.attention import Backend, attention
from nanochat.gpt import GPT, Embedded


class EagerAttention:
    """Plain causal attention without a history, and so without compiling anything for a width that comes up once.

    `bias` is added to the scores, as in `GPT.backbone`; windows then count for nothing.
    """

    def __init__(self, bias: Tensor | None = None) -> None:
        self.bias = bias

    def layer(self, index: int) -> EagerAttention:
        """The same for each layer."""
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        """See `nanochat.attention.attention`."""
        eager: Backend = "sdpa" if backend == "flex" else backend  # FlexAttention is compiled for each shape
        return attention(q, k, v, window, eager, mask=self.bias)


class _CountedAttention(EagerAttention):
    """The same; adds up how much attention the queries `begin … end−1`, of `weights` fp32 [B,Q], pay to each position."""

    def __init__(self, begin: int, end: int, weights: Tensor) -> None:
        super().__init__()
        self.begin, self.end, self.weights = begin, end, weights
        self.mass: Tensor | None = None  # fp32 [B,T], summed over layers
        self.layers = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        B, T, G, E = k.shape
        queries = q[:, self.begin : self.end].unflatten(2, (G, -1))  # (B, Q, G, H/G, E)
        scores = torch.einsum("bqgre,btge->bgrqt", queries.float(), k.float()) * E**-0.5
        here = torch.arange(self.begin, self.end, device=q.device)[:, None]
        key = torch.arange(T, device=q.device)
        hidden = key > here
        if window > 0:
            hidden = hidden | (key <= here - window)
        mass = scores.masked_fill(hidden, -math.inf).softmax(-1).mean((1, 2))  # (B, Q, T)
        mass = torch.einsum("bqt,bq->bt", mass, self.weights)
        self.mass = mass if self.mass is None else self.mass + mass
        self.layers += 1
        return super().attend(q, k, v, window, backend)


@torch.no_grad()
def attention_mass(model: GPT, embedded: Embedded, begin: int, end: int, weights: Tensor | None = None) -> Tensor:
    """How much attention positions `begin … end−1` of plain rows pay to each position, fp32 [B,T], averaged over heads and layers.

    Summed over these queries with `weights`, fp32 [B,Q]; by default their mean, and a row of it sums to 1.
    """
    B, T, _ = embedded.x.shape
    if weights is None:
        weights = torch.full((B, end - begin), 1 / (end - begin), device=embedded.x.device)
    counted = _CountedAttention(begin, end, weights)
    model.layers(embedded, model.rotary(0, T), cache=counted)
    return counted.mass / counted.layers
