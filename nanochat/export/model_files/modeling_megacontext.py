"""MegaContext language model for transformers, with a KV cache; its memory is no part of it.

Shapes: `B` rows, `T` new tokens, `S` tokens with those in the cache, `D` width, `H` query heads, `G` key/value heads, `E` head size.

A token's embedding is mixed with that of the token before it (smear), so the cache also holds the tokens: as one more layer, which
beam search, cropping and repetition then treat like the others.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_megacontext import MegaContextConfig

# Name of the cache in outputs, which depends on the version of transformers; `forward` takes both.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters."""
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the two halves of each head, x [B,T,heads,E], by the angles of its position."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), rotary
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotary_at(positions: Tensor, config: MegaContextConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B or 1,T,1,E/2] at `positions` [B or 1,T]."""
    wide = torch.float32 if positions.device.type == "mps" else torch.float64  # MPS has no fp64
    channels = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = config.rotary_base ** -(channels / config.head_dim)
    angles = (positions.to(wide).unsqueeze(-1) * frequencies).remainder(2 * math.pi).float().unsqueeze(2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def attention_mask_of(T: int, S: int, window: int, real: Tensor | None, device: torch.device) -> Tensor | None:
    """bool [B or 1,1,T,S], True if one of the last T tokens sees one of S; None if merely causal. `real` [B,S] is False at padding."""
    if real is None and T in (1, S) and (window == 0 or window >= S):
        return None
    query, key = torch.arange(S - T, S, device=device)[:, None], torch.arange(S, device=device)
    seen = (key <= query) & (key > query - window) if window else key <= query
    if real is None:
        return seen[None, None]
    # Padding sees itself: attention to nothing is NaN in some kernels, and would spread.
    return (seen & real[:, None, None, :]) | (key == query)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys, in some layers with value embeddings."""

    def __init__(self, config: MegaContextConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        width, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, kv, bias=False)
        self.c_v = nn.Linear(width, kv, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        gated = (config.num_hidden_layers - 1 - layer) % 2 == 0
        self.value_gate = nn.Linear(config.gate_channels, config.num_key_value_heads, bias=False) if gated else None

    def forward(self, x: Tensor, values: Tensor | None, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Output [B,T,D] for x [B,T,D] and value embeddings [B,T,G,E]."""
        B, T, D = x.shape
        q, k, v = (part(x).view(B, T, -1, self.config.head_dim) for part in (self.c_q, self.c_k, self.c_v))
        if values is not None:
            gate = self.config.value_gain * torch.sigmoid(self.value_gate(x[..., : self.config.gate_channels]))
            v = v + gate.unsqueeze(-1) * values
        q, k = (rotate(norm(part) * self.config.qk_gain, rotary) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, T, E)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        grouped = q.shape[1] != k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and T > 1, enable_gqa=grouped)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two matrices around a squared ReLU."""

    def __init__(self, config: MegaContextConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Output [B,T,D]."""
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Layer of the model."""

    def __init__(self, config: MegaContextConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *inputs: Any) -> Tensor:
        """Stream [B,T,D] after the layer; `inputs` are the other arguments of `Attention.forward`."""
        x = x + self.attn(norm(x), *inputs)
        return x + self.mlp(norm(x))


class MegaContextForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model. Rows may be padded on the left; `generate` uses a KV cache."""

    config_class = MegaContextConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config: MegaContextConfig) -> None:
        super().__init__(config)
        V, D, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
        self.value_layers = [i for i in range(L) if (L - 1 - i) % 2 == 0]
        self.wte = nn.Embedding(V, D)
        self.value_embeds = nn.Embedding(V, len(self.value_layers) * config.num_key_value_heads * config.head_dim)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(L))
        self.lm_head = nn.Linear(D, V, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(L))
        self.x0_lambdas = nn.Parameter(torch.zeros(L))
        self.smear_gate = nn.Linear(config.smear_channels, 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Embedding of the tokens."""
        return self.wte

    def get_output_embeddings(self) -> nn.Module:
        """Linear map to the logits."""
        return self.lm_head

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refused."""
        raise NotImplementedError("the vocabulary cannot be resized: each layer's value embeddings have a row for each token")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits, fp32 [B,T,V], of `input_ids`, int64 [B,T]. `attention_mask` [B,S] is 0 at padding.

        With `labels` [B,T] also the loss of each token's successor, −100 left out. Raises `ValueError` for what the model does not have.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("invalid inputs_embeds: value embeddings are looked up by token; expected input_ids")
        if output_attentions:
            raise ValueError("invalid output_attentions: attention weights are not computed; expected False")
        cache = cache if cache is not None else past_key_values
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if cache is None and use_cache:
            cache = DynamicCache()
        tokens = input_ids if cache is None else self._all_tokens(input_ids, cache)
        (B, S), T = tokens.shape, input_ids.shape[1]
        real = self._real(attention_mask, B, S)
        if position_ids is None:
            position_ids = torch.arange(S - T, S, device=tokens.device)[None]  # only differences matter: padding may count

        x = x0 = self._embedded(tokens, T, real)
        values = self.value_embeds(input_ids).view(B, T, len(self.value_layers), self.config.num_key_value_heads, self.config.head_dim)
        rotary = rotary_at(position_ids, self.config, x.dtype)
        masks = {w: attention_mask_of(T, S, w, real, x.device) for w in set(self.config.attention_windows)}
        streams = [x]
        middle = x
        for i, block in enumerate(self.blocks):
            own = values[:, :, self.value_layers.index(i)] if i in self.value_layers else None
            mixed = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            x = block(mixed, own, rotary, masks[self.config.attention_windows[i]], cache)
            streams.append(x)
            if i == len(self.blocks) // 2:
                middle = x
        x = norm(x - self.backout_lambda * middle)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        cap = self.config.logit_softcap
        logits = cap * torch.tanh(self.lm_head(x[:, kept]).float() / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = (*streams[:-1], x) if wanted else None
        output = CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=hidden_states, **{CACHE: cache})
        return output.to_tuple() if return_dict is False else output

    def _all_tokens(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Tokens [B,S] of the cache and the new ones, which are added to it."""
        if not isinstance(cache, DynamicCache):
            raise ValueError(f"invalid cache {type(cache).__name__}: the tokens before a token must be kept, too; expected a DynamicCache")
        while len(cache.layers) <= len(self.blocks):
            cache.layers.append(DynamicLayer())
        new = input_ids[:, None, :, None]  # (B, 1, T, 1), as keys of one head
        return cache.update(new, new, len(self.blocks))[0][:, 0, :, 0]

    @staticmethod
    def _real(attention_mask: Tensor | None, B: int, S: int) -> Tensor | None:
        """bool [B,S], False at padding; None if there is none."""
        if attention_mask is None:
            return None
        if attention_mask.shape != (B, S):
            raise ValueError(
                f"invalid attention_mask of shape {tuple(attention_mask.shape)}; expected {(B, S)}, with the tokens in the cache"
            )
        return None if attention_mask.all() else attention_mask.bool()

    def _embedded(self, tokens: Tensor, T: int, real: Tensor | None) -> Tensor:
        """Embedding [B,T,D] of the last T `tokens`, smeared: mixed with that of the token before, if there is one."""
        S = tokens.shape[1]
        x = norm(self.wte(tokens[:, max(0, S - T - 1) :]))
        if S == T:
            x = F.pad(x, (0, 0, 1, 0))
        before, x = x[:, :-1], x[:, 1:]
        if real is not None:
            before = before * F.pad(real, (1, 0))[:, S - T : S, None]
        gate = self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., : self.config.smear_channels]))
        return x + gate * before
