"""The model's forward for one new token in each row, arranged for speed: what the decoding of a small model costs is not
arithmetic but the number of operations.

Shapes: `B` rows, `D` width, `H` query heads, `G` key/value heads, `E` head size, `U` layers with value embeddings.

The mathematics is that of `gpt.GPT`. The projections and the value gates of a layer are one matrix; the rows that make queries
and keys are so ordered that a pair of channels is a complex number, and rotating and scaling a head is one product; scalars are
numbers, not tensors. Everything but the matrices' products is in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.infer.packed_linear import PackedLinear
from nanochat.model.gpt import GATE_CHANNELS, GPT, QK_GAIN, SMEAR_CHANNELS, Block, rotary_angles, rotary_frequencies

EPSILON = torch.finfo(torch.float32).eps  # what `F.rms_norm` adds to the mean square

# Layer, queries [B,H,E], keys and values [B,G,E] of the new tokens → what the queries read [B,H,E].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DecodeStep:
    """`model` with its weights as they are when first used; see `up_to_date`."""

    @torch.no_grad()
    def __init__(self, model: GPT) -> None:
        config, device, dtype = model.config, model.wte.weight.device, model.dtype
        self._model, self.dtype = model, dtype
        self._heads, self._key_heads, self._head_dim = config.heads, config.key_heads, config.head_dim
        self._versions = _versions(model)
        self._residual, self._x0 = model.resid_lambdas.tolist(), model.x0_lambdas.tolist()
        self._smear, self._backout = model.smear_lambda.item(), model.backout_lambda.item()
        self._smear_gate = model.smear_gate.weight.float()
        self._frequencies = rotary_frequencies(config.head_dim, device)
        self._gain = torch.tensor(QK_GAIN * config.head_dim**0.5, device=device)
        self._floors = {size: torch.tensor((size * EPSILON) ** 0.5, device=device) for size in (config.width, config.head_dim)}

    @property
    def up_to_date(self) -> bool:
        """Whether the model surely has the same weights still. Of one in training that is never sure: optimizers change weights
        through `.data`, which leaves no trace."""
        return not any(p.requires_grad for p in self._model.parameters()) and self._versions == _versions(self._model)

    @functools.cached_property
    def head(self) -> PackedLinear:
        """From hidden states to scores, which `cross_entropy.softcap` makes logits of."""
        return PackedLinear(self._model.lm_head.weight, self.dtype)

    @functools.cached_property
    def _layers(self) -> list[_Layer]:
        return [_Layer(block, self.dtype, self._head_dim) for block in self._model.blocks]

    @torch.no_grad()
    def __call__(self, tokens: Tensor, previous: Tensor, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B,D] of `tokens` int64 [B] at `positions` [B], and their normalised embeddings [B,D], in the model's dtype;
        and the stream [B,D] after the middle layer, fp32, which is not to be changed.

        `previous` [B,D] are the normalised embeddings of the tokens before.
        """
        hidden, embedded, middle = self._run(tokens, previous, positions, attend)
        # Copies, made outside of inference mode: whoever gets them may do with them as with any tensor.
        return hidden.to(self.dtype, copy=True), embedded.to(self.dtype, copy=True), middle

    @torch.inference_mode()
    def _run(self, tokens: Tensor, previous: Tensor, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor, Tensor]:
        model, B, E = self._model, len(tokens), self._head_dim
        embedded = self._norm(model.wte(tokens).float())
        gate = F.linear(embedded[:, :SMEAR_CHANNELS], self._smear_gate).sigmoid_()
        x = x0 = middle = torch.addcmul(embedded, gate, previous.float(), value=self._smear)
        values = iter(model.value_embeds(tokens).float().view(B, -1, self._key_heads, E).unbind(1))  # U × (B, G, E)
        rotation = torch.polar(self._gain, rotary_angles(positions[:, None], self._frequencies))  # (B, 1, E/2)
        for i, layer in enumerate(self._layers):
            x = torch.add(x * self._residual[i], x0, alpha=self._x0[i])
            projected = layer.projections(self._norm(x)).float()
            qk, v, gates = projected.split(layer.sizes, dim=1)
            q, k = self._rotated(qk.view(B, -1, E), rotation)
            v = v.view(B, -1, E)
            if layer.gated:
                v = torch.addcmul(v, gates.sigmoid().unsqueeze(-1), next(values), value=3.0)
            y = attend(i, q, k, v).reshape(B, -1)
            x = layer.attention_out.add_to(x, y)
            x = layer.mlp_out.add_to(x, layer.mlp_in(self._norm(x)).relu_().square_())
            if i == len(self._layers) // 2:
                middle = x
        return self._norm(torch.sub(x, middle, alpha=self._backout)), embedded, middle

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
        self.projections = PackedLinear(torch.cat(rows), dtype)
        self.sizes = [len(q) + len(k), len(v), sum(map(len, rows[3:]))]  # queries and keys, values, gates
        self.attention_out, self.mlp_in, self.mlp_out = (PackedLinear(m.weight, dtype) for m in (attention.c_proj, mlp.c_fc, mlp.c_proj))


def _versions(model: GPT) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), parameter._version) for parameter in model.parameters()]


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a projection in an order in which the two channels that are rotated together are side by side."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
