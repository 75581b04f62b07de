"""Forward of one new token per row, arranged for speed: decoding a small model costs operations, not arithmetic.

Shapes: `B` rows, `D` width, `H` query heads, `G` key/value heads, `E` head size, `U` layers with value embeddings.

It computes what `gpt.GPT` computes, in fewer operations. A layer's projections and value gates are one matrix, in which the rows
of queries and keys are ordered so that a pair of channels is a complex number: rotating and scaling a head is one product. Scalars
are numbers instead of tensors. Everything but the matmuls is in fp32; tables are read in the model's dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.infer.packed_linear import PackedLinear
from nanochat.model.block import GATE_CHANNELS, QK_GAIN, VALUE_GAIN, Block, residual_block, rotary_angles, rotary_frequencies
from nanochat.model.gpt import GPT, SMEAR_CHANNELS
from nanochat.model.norm import EPSILON

# Layer, q [B,H,1,E], k and v [B,G,1,E] of the new tokens → attention output, B·H·E elements.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class DecodeStep:
    """Decode step of `model` with a copy of its weights, made at the first use; see `up_to_date`."""

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
        """True if the model certainly still has the same weights; never in training, as optimizers change weights through `.data`,
        which leaves no trace."""
        return not any(p.requires_grad for p in self._model.parameters()) and self._versions == _versions(self._model)

    @functools.cached_property
    def head(self) -> PackedLinear:
        """The LM head: hidden states → scores, the logits before `cross_entropy.softcap`."""
        return PackedLinear(self._model.lm_head.weight, self.dtype)

    @functools.cached_property
    def _layers(self) -> list[_Layer]:
        return [_Layer(block, self.dtype, self._head_dim) for block in self._model.blocks]

    @torch.no_grad()
    def __call__(self, tokens: Tensor, previous: Tensor, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states and normalised embeddings [B,D] of `tokens` int64 [B] at `positions` [B], both in the model's dtype; and
        the stream [B,D] after the middle layer, fp32 and read-only.

        `previous` [B,D] are the normalised embeddings of the preceding tokens.
        """
        model, B = self._model, len(tokens)

        def attend_layer(h: Tensor) -> Tensor:
            qk, v, gates = layer.projections(h).float().split(layer.sizes, dim=1)
            q, k = self._rotated(qk, rotation)
            v = v.view(B, -1, 1, self._head_dim)
            if layer.gated:
                v = torch.addcmul(v, gates.sigmoid().view(B, -1, 1, 1), next(values), value=VALUE_GAIN)
            return attend(i, q, k, v).reshape(B, -1)

        with torch.inference_mode():
            embedded = self._norm(model.wte(tokens).to(self.dtype).float())
            gate = F.linear(embedded[:, :SMEAR_CHANNELS], self._smear_gate).sigmoid_()
            x = x0 = middle = torch.addcmul(embedded, gate, previous.float(), value=self._smear)
            rows = model.value_embeds(tokens).to(self.dtype).float()
            values = iter(rows.view(B, -1, self._key_heads, 1, self._head_dim).unbind(1))  # U × (B, G, 1, E)
            rotation = torch.polar(self._gain, rotary_angles(positions.unsqueeze(1), self._frequencies))  # (B, 1, E/2)
            for i, layer in enumerate(self._layers):
                x = torch.add(x * self._residual[i], x0, alpha=self._x0[i])
                x = residual_block(x, attend_layer, layer.add_attn, layer.fc, layer.add_mlp, self._norm)
                if i == len(self._layers) // 2:
                    middle = x
            hidden = self._norm(torch.sub(x, middle, alpha=self._backout))
        # Copies made outside inference mode are ordinary tensors for the caller.
        return hidden.to(self.dtype, copy=True), embedded.to(self.dtype, copy=True), middle

    def _norm(self, x: Tensor) -> Tensor:
        """`norm` in fewer operations."""
        return self._unit(x).mul_(x.shape[-1] ** 0.5)

    def _unit(self, x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floors[x.shape[-1]])

    def _rotated(self, qk: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B,H,1,E] and keys [B,G,1,E], as `block.place` makes them, of their projections [B,(H+G)·E]."""
        B, E = len(qk), self._head_dim
        turned = torch.view_as_complex(self._unit(qk.view(B, -1, E)).view(B, -1, E // 2, 2)) * rotation
        # Back to the model's order of channels, in which the cache keeps its keys: all real parts, then all imaginary ones.
        ordered = torch.view_as_real(turned).transpose(2, 3).reshape(B, -1, 1, E)
        return ordered[:, : self._heads], ordered[:, self._heads :]


class _Layer:
    """Packed matrices of a layer."""

    def __init__(self, block: Block, dtype: torch.dtype, head_dim: int) -> None:
        attn, mlp = block.attn, block.mlp
        q, k, v = (_paired(attn.c_q.weight, head_dim), _paired(attn.c_k.weight, head_dim), attn.c_v.weight)
        rows = [q, k, v]
        self.gated = attn.value_gate is not None
        if self.gated:
            rows.append(F.pad(attn.value_gate.weight, (0, q.shape[1] - GATE_CHANNELS)))  # zeros for the channels that a gate ignores
        self.projections = PackedLinear(torch.cat(rows), dtype)
        self.sizes = [len(q) + len(k), len(v), sum(map(len, rows[3:]))]  # queries and keys, values, gates
        attn_out, self.fc, mlp_out = (PackedLinear(m.weight, dtype) for m in (attn.c_proj, mlp.c_fc, mlp.c_proj))
        self.add_attn, self.add_mlp = attn_out.add_to, mlp_out.add_to


def _versions(model: GPT) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), parameter._version) for parameter in model.parameters()]


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a projection, reordered so that the two channels that are rotated together are adjacent."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
