"""The model's forward for one new token in each row, arranged for speed: what the decoding of a small model costs is not
arithmetic but the number of operations.

Shapes: `B` rows, `D` width, `H` query heads, `G` key/value heads, `E` head size, `U` layers with value embeddings.

The mathematics is that of `gpt.GPT`. The projections and the value gates of a layer are one matrix; the rows that make queries
and keys are so ordered that a pair of channels is a complex number, and rotating and scaling a head is one product; scalars are
numbers, not tensors. Everything but the matrices' products is in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.gpt import GATE_CHANNELS, GPT, QK_GAIN, ROTARY_BASE, SMEAR_CHANNELS, Block

EPSILON = torch.finfo(torch.float32).eps  # what `F.rms_norm` adds to the mean square

# Layer, queries [B,H,E], keys and values [B,G,E] of the new tokens → what the queries read [B,H,E].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DecodeStep:
    """`model` with its weights as they are now, its matrices in `dtype`; those that it has in `dtype` are not copied."""

    @torch.no_grad()
    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        config, device = model.config, model.wte.weight.device
        self._model, self.dtype = model, dtype
        self._heads, self._key_heads, self._head_dim = config.heads, config.key_heads, config.head_dim
        self._layers = [_Layer(block, dtype, config.head_dim) for block in model.blocks]
        self._residual, self._x0 = model.resid_lambdas.tolist(), model.x0_lambdas.tolist()
        self._smear, self._backout = model.smear_lambda.item(), model.backout_lambda.item()
        self._smear_gate = model.smear_gate.weight.float()
        self._frequencies = ROTARY_BASE ** -(torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim)
        self._gain = torch.tensor(QK_GAIN * config.head_dim**0.5, device=device)
        self._floors = {size: torch.tensor((size * EPSILON) ** 0.5, device=device) for size in (config.width, config.head_dim)}

    @torch.no_grad()
    def __call__(self, tokens: Tensor, previous: Tensor, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """Hidden states [B,D] of `tokens` int64 [B] at `positions` [B], and their normalised embeddings [B,D], both fp32.

        `previous` [B,D] are the normalised embeddings of the tokens before.
        """
        model, B, E = self._model, len(tokens), self._head_dim
        embedded = self._norm(model.wte(tokens).float())
        gate = F.linear(embedded[:, :SMEAR_CHANNELS], self._smear_gate).sigmoid_()
        x = x0 = middle = torch.addcmul(embedded, gate, previous, value=self._smear)
        values = iter(model.value_embeds(tokens).float().view(B, -1, self._key_heads, E).unbind(1))  # U × (B, G, E)
        rotation = torch.polar(self._gain, positions.float()[:, None, None] * self._frequencies)  # (B, 1, E/2)
        for i, layer in enumerate(self._layers):
            x = torch.add(x * self._residual[i], x0, alpha=self._x0[i])
            projected = F.linear(self._norm(x).to(self.dtype), layer.projections).float()
            qk, v, gates = projected.split(layer.sizes, dim=1)
            q, k = self._rotated(qk.view(B, -1, E), rotation)
            v = v.view(B, -1, E)
            if layer.gated:
                v = torch.addcmul(v, gates.sigmoid().unsqueeze(-1), next(values), value=3.0)
            y = attend(i, q, k, v).reshape(B, -1)
            x = _add_product(x, y.to(self.dtype), layer.attention_out)
            inner = F.linear(self._norm(x).to(self.dtype), layer.mlp_in)
            x = _add_product(x, inner.relu_().square_(), layer.mlp_out)
            if i == len(self._layers) // 2:
                middle = x
        return self._norm(torch.sub(x, middle, alpha=self._backout)), embedded

    def _norm(self, x: Tensor) -> Tensor:
        """`gpt.norm` in fewer operations."""
        return self._unit(x).mul_(x.shape[-1] ** 0.5)

    def _unit(self, x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floors[x.shape[-1]])

    def _rotated(self, qk: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B,H,E] and keys [B,G,E] as `gpt.place` makes them."""
        B, heads, E = qk.shape
        turned = torch.view_as_complex(self._unit(qk).view(B, heads, E // 2, 2)) * rotation
        # Back to the order of the model's heads, in which the cache has its keys: first parts, then second parts.
        ordered = torch.view_as_real(turned).transpose(2, 3).reshape(B, heads, E)
        return ordered[:, : self._heads], ordered[:, self._heads :]


class _Layer:
    """A layer's matrices."""

    def __init__(self, block: Block, dtype: torch.dtype, head_dim: int) -> None:
        attention, mlp = block.attn, block.mlp
        q, k, v = (_paired(attention.c_q.weight, head_dim), _paired(attention.c_k.weight, head_dim), attention.c_v.weight)
        rows = [q, k, v]
        self.gated = attention.value_gate is not None
        if self.gated:
            rows.append(F.pad(attention.value_gate.weight, (0, q.shape[1] - GATE_CHANNELS)))  # zeros for what a gate does not read
        self.projections = torch.cat(rows).to(dtype)
        self.sizes = [len(q) + len(k), len(v), len(self.projections) - len(q) - len(k) - len(v)]  # queries and keys, values, gates
        self.attention_out, self.mlp_out = attention.c_proj.weight.to(dtype), mlp.c_proj.weight.to(dtype)
        self.mlp_in = mlp.c_fc.weight.to(dtype)


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a projection in an order in which the two channels that are rotated together are side by side."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _add_product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x + y·weightᵀ in the dtype of x."""
    return torch.addmm(x, y, weight.t()) if y.dtype == x.dtype else x + F.linear(y, weight)
