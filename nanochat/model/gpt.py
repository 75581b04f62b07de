"""Language model: embed → backbone → loss, three functions that training, memory and inference compose.

Shapes: `B` rows, `T` positions, `D` width, `H` query heads, `G` key/value heads, `E` head size, `V` vocabulary,
`L` layers, `U` layers with value embeddings. Parameters are fp32; activations have the compute dtype.

A 2026 GPT: rotary positions, QK-norm, ReLU² MLP, parameter-free RMSNorm (also after the embedding), grouped queries,
softcapped logits, and from modded-nanogpt and karpathy/nanochat: value embeddings with per-head gates (ResFormer,
arXiv 2410.17897), residual and x0 scalars, smear (previous token mixed into the embedding), backout (a share of the
middle layer subtracted before the head), sliding windows.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.flags import flag
from nanochat.model.attention import AttentionBackend, AttentionHook, MemoryEntries, UntracedAttention
from nanochat.model.block import GATE_CHANNELS, Block, Function, Linear, Rotary, rotary_at
from nanochat.model.cast_embedding import CastEmbedding
from nanochat.model.cross_entropy import IGNORE, ChunkedCrossEntropy, plain_cross_entropy, softcap
from nanochat.model.norm import fused_norm, norm
from nanochat.model.recompute import ActivationCheckpointing

SMEAR_CHANNELS = 24  # channels of the embedding that the smear gate reads
MOST_LAYERS = 10_000  # far beyond any model: a slip of the hand would take forever


@dataclass
class GPTConfig:
    """Shape of the model: the depth sets the rest."""

    depth: int = flag(12, "number of layers", unit="layers")
    aspect_ratio: int = flag(64, "width = depth × aspect ratio, rounded up to a multiple of the head size", unit="channels per layer")
    head_dim: int = flag(128, "attention head size", unit="channels")
    kv_heads: int = flag(0, "number of key/value heads; 0 = as many as query heads", unit="heads")
    max_seq_len: int = flag(2048, "context length", unit="tokens")
    window_pattern: str = flag("auto", "attention windows, tiled: L = full, S = quarter context; last layer always L; auto = fastest here")
    vocab_size: int = 32768

    def __post_init__(self) -> None:
        for name in ("depth", "aspect_ratio", "head_dim", "max_seq_len", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"invalid {name} {getattr(self, name)}; expected at least 1")
        if self.depth > MOST_LAYERS:
            raise ValueError(f"invalid depth {self.depth}; expected at most {MOST_LAYERS:,}")
        if self.head_dim % 2:
            raise ValueError(f"invalid head_dim {self.head_dim}: rotary positions rotate pairs of channels; expected an even number")
        if self.width < SMEAR_CHANNELS:
            raise ValueError(f"invalid width {self.width} (depth × aspect_ratio); expected at least {SMEAR_CHANNELS}")
        if self.kv_heads < 0 or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"invalid kv_heads {self.kv_heads}; expected 0 or a divisor of the {self.heads} query heads")
        if self.window_pattern != "auto" and (not self.window_pattern or set(self.window_pattern.upper()) - set("SL")):
            raise ValueError(f"invalid window_pattern {self.window_pattern!r}; expected auto or a string of S and L")

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return -(-self.depth * self.aspect_ratio // self.head_dim) * self.head_dim

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.width // self.head_dim

    @property
    def key_heads(self) -> int:
        """Key/value heads."""
        return self.kv_heads or self.heads

    @property
    def windows(self) -> list[int]:
        """Window of each layer in tokens; 0 = full context."""
        if self.window_pattern == "auto":
            raise ValueError("window_pattern is auto; resolve it with attention.best_window_pattern")
        quarter = -(-self.max_seq_len // 4)
        pattern = self.window_pattern.upper()
        return [quarter if pattern[i % len(pattern)] == "S" and i < self.depth - 1 else 0 for i in range(self.depth)]

    @property
    def scaling_parameters(self) -> int:
        """Parameters that the scaling laws count: matrices and gates of the layers, and the head."""
        D, kv = self.width, self.key_heads * self.head_dim
        layer = 2 * D * D + 2 * D * kv + 8 * D * D  # queries and output, keys and values, MLP
        gates = sum(self.has_values(i) for i in range(self.depth)) * GATE_CHANNELS * self.key_heads
        return self.depth * layer + gates + D * self.vocab_size

    def flops_per_token(self) -> float:
        """Training FLOPs per token: 6 for each matmul parameter, and attention over each layer's mean visible context.

        Position t sees min(t+1, window) keys at 12·D FLOPs each (PaLM, arXiv 2204.02311, appendix B).
        """
        T = self.max_seq_len
        seen = sum((w * (w + 1) / 2 + (T - w) * w) / T for w in (min(window or T, T) for window in self.windows))
        return 6 * (self.scaling_parameters + SMEAR_CHANNELS) + 12 * self.width * seen

    def has_values(self, layer: int) -> bool:
        """True if `layer` has value embeddings: every other one, counted back from the last."""
        return (self.depth - 1 - layer) % 2 == 0


class Embedded(NamedTuple):
    """Output of `GPT.embed`: everything the backbone needs to know about the tokens."""

    x: Tensor  # (B, T, D) in the compute dtype
    values: Tensor  # (B, T, U, G, E), value embeddings


class Head(Linear):
    """Linear map to the logits, before the softcap."""

    def cross_entropy(self, hidden: Tensor, targets: Tensor, reduction: str, function: Callable) -> Tensor | tuple[Tensor, Tensor]:
        """`function` of hidden states [N,D], the weights in their dtype, and targets [N]; see `ChunkedCrossEntropy`."""
        return function(hidden, self.weight.to(hidden.dtype), targets, reduction)


def pad_entries(embedded: Embedded, rotary: Rotary, multiple: int) -> tuple[Embedded, Rotary]:
    """Appends zeros, which no other position sees, up to a multiple of `multiple` positions.

    On a CPU, preparing a matmul of a new shape takes longer than the matmul; padding keeps the number of shapes small.
    """
    padding = -embedded.x.shape[1] % multiple
    padded = Embedded(F.pad(embedded.x, (0, 0, 0, padding)), F.pad(embedded.values, (0, 0, 0, 0, 0, 0, 0, padding)))
    return padded, Rotary(*(F.pad(part, (0, 0, 0, 0, 0, padding)) for part in rotary))


@functools.lru_cache(maxsize=1)
def _compiled_heads() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(Block.heads, dynamic=False)


@functools.lru_cache(maxsize=1)
def _compiled_for_any_width() -> Callable[..., Tensor]:
    return torch.compile(Block.forward, dynamic=True)


class GPT(nn.Module):
    """Language model. `embed`, `backbone` and `loss` are its parts; `forward` composes them for plain rows of tokens."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype = torch.float32, backend: AttentionBackend = "sdpa") -> None:
        super().__init__()
        self.config, self.dtype, self.backend = config, dtype, backend
        self.windows = config.windows
        V, D, L = config.vocab_size, config.width, config.depth
        self.value_layers = [i for i in range(L) if config.has_values(i)]
        self.wte = nn.Embedding(V, D)
        self.value_embeds = CastEmbedding(V, len(self.value_layers) * config.key_heads * config.head_dim)
        self.blocks = nn.ModuleList(Block(i, D, config.head_dim, config.key_heads, config.has_values(i)) for i in range(L))
        self.lm_head = Head(D, V)
        self.resid_lambdas = nn.Parameter(torch.empty(L))
        self.x0_lambdas = nn.Parameter(torch.empty(L))
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.empty(1))
        self.backout_lambda = nn.Parameter(torch.empty(1))
        self.cross_entropy = plain_cross_entropy
        self.norm: Function = norm
        self.gathered: Callable[[], AbstractContextManager[None]] = nullcontext  # around reads of whole weights, if they are sharded
        self.compiled = False  # whether layers without a hook are
        self._rotary: Rotary | None = None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> GPT:
        """Initialises every parameter from `generator`. Returns self."""
        D, L = self.config.width, self.config.depth
        bound = 3**0.5 * D**-0.5  # uniform with standard deviation 1/√D

        def uniform(weight: Tensor, low: float, high: float) -> None:
            nn.init.uniform_(weight, low, high, generator=generator)

        nn.init.normal_(self.wte.weight, std=0.8, generator=generator)
        nn.init.normal_(self.lm_head.weight, std=0.001, generator=generator)
        uniform(self.value_embeds.weight, -bound, bound)
        for block in self.blocks:
            for weight in (block.attn.c_q.weight, block.attn.c_k.weight, block.attn.c_v.weight):
                uniform(weight, -bound, bound)
            uniform(block.mlp.c_fc.weight, -0.4 * bound, 0.4 * bound)
            # Zero output projections: at the start every layer leaves the residual stream unchanged.
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.value_gate is not None:
                uniform(block.attn.value_gate.weight, 0.0, 0.02)
        uniform(self.smear_gate.weight, 0.0, 0.02)
        nn.init.zeros_(self.smear_lambda)
        nn.init.constant_(self.backout_lambda, 0.2)
        self.resid_lambdas.copy_(torch.linspace(1.15, 1.05, L))
        self.x0_lambdas.copy_(torch.linspace(0.20, 0.05, L))
        return self

    def use_kernels(
        self, compiled: bool, chunked_ce: bool, fused_rmsnorm: bool = False, recompute: ActivationCheckpointing | None = None
    ) -> GPT:
        """Selects implementations: compiled or eager layers, chunked or plain cross-entropy, fused or plain RMSNorm, activations that
        are kept or recomputed. Returns self."""
        for part in (self, *self.blocks, *(block.attn for block in self.blocks)):
            part.norm = fused_norm if fused_rmsnorm else norm
        for i, block in enumerate(self.blocks):
            block.recompute = "none" if recompute is None else recompute.of_layer(i)
        self.compiled = compiled
        if compiled:
            # Layers share code; each kind, window and shape is compiled once. Past the default limit of 8 the compiler would run the
            # rest eagerly, with only a warning.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            # It warns, for every process, of in-place operations in layers that recompute; when they train they have none.
            logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
            for block in self.blocks:
                block.compile(dynamic=False)
        self.cross_entropy = ChunkedCrossEntropy(compiled) if chunked_ce else plain_cross_entropy
        return self

    def embed(self, tokens: Tensor, previous: Tensor | None = None) -> Embedded:
        """Embedding, norm, smear and value embeddings of `tokens`, int64 [B,T].

        `previous` [B,D] is the normalised embedding of the token before each row; zero if None.
        """
        x = self.norm(self.wte(tokens).to(self.dtype))
        before = torch.zeros_like(x[:, :1]) if previous is None else previous[:, None]
        before = torch.cat([before, x[:, :-1]], dim=1)
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
        values = self.value_embeds.rows(tokens, self.dtype)
        shape = (*tokens.shape, len(self.value_layers), self.config.key_heads, self.config.head_dim)
        return Embedded(x + gate * before, values.view(shape))

    def rotary(self, start: int, end: int) -> Rotary:
        """Standard RoPE at positions start … end−1, from a table that grows as needed."""
        device = self.wte.weight.device
        if self._rotary is None or self._rotary.cos.shape[1] < end or self._rotary.cos.device != device:
            size = self.config.max_seq_len
            while size < end:  # doubling: decoding past it must not rebuild the table for every token
                size *= 2
            self._rotary = rotary_at(torch.arange(size, device=device), self.config.head_dim, self.dtype)
        return Rotary(self._rotary.cos[:, start:end], self._rotary.sin[:, start:end])

    def layers(
        self,
        embedded: Embedded,
        rotary: Rotary,
        attn_hook: AttentionHook | None = None,
        inputs: list[Tensor] | None = None,
        half: bool = False,
        memory: Sequence[MemoryEntries] | None = None,
        any_width: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream [B,T,D] after the last layer and after the middle one; see `backbone`.

        The stream before each layer is appended to `inputs`, if given. With `half` the middle layer is the last one that runs.
        With `memory`, each layer i attends to [memory[i] | tokens]; `attn_hook` then only makes the layers run eagerly. `any_width`
        compiles the layers once for all shapes instead of for each.
        """
        x = x0 = middle = embedded.x
        scales = self._scales(x.dtype)
        for i, block in enumerate(self.blocks):
            values = self._layer_values(embedded, i)
            if inputs is not None:
                inputs.append(x)
            run = block if attn_hook is None else block.forward  # `forward` bypasses the compiled call
            if any_width and self.compiled:
                run = functools.partial(_compiled_for_any_width(), block)
                attn_hook = UntracedAttention() if self.backend == "blocked" else None  # whose blocks depend on the width
            x = run(x, x0, scales[i], values, rotary, self.windows[i], self.backend, attn_hook, memory and memory[i])
            if i == len(self.blocks) // 2:
                middle = x
                if half:
                    break
        return x, middle

    def heads(
        self, embedded: Embedded, inputs: Sequence[Tensor], rotary: Rotary, compiled: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields queries [B,T,H,E], keys and values [B,T,G,E] of each layer, computed anew from the streams `inputs` before it.

        `compiled` compiles for each shape.
        """
        scales, heads = self._scales(embedded.x.dtype), _compiled_heads() if compiled else Block.heads
        for i, (block, x) in enumerate(zip(self.blocks, inputs, strict=True)):
            yield heads(block, x, embedded.x, scales[i], self._layer_values(embedded, i), rotary)

    def _scales(self, dtype: torch.dtype) -> Tensor:
        """Scales of the stream and of the embedding before each layer, [L,2]."""
        return torch.stack([self.resid_lambdas, self.x0_lambdas], dim=1).to(dtype)

    def _layer_values(self, embedded: Embedded, layer: int) -> Tensor | None:
        """Value embeddings [B,T,G,E] of a layer, if it has any."""
        return embedded.values[:, :, self.value_layers.index(layer)] if layer in self.value_layers else None

    def finish(self, x: Tensor, middle: Tensor) -> Tensor:
        """Hidden states for the head, from the output of `layers`: backout of the middle layer, and the norm."""
        return self.norm(x - self.backout_lambda.to(x.dtype) * middle)

    def backbone(self, embedded: Embedded, rotary: Rotary, attn_hook: AttentionHook | None = None, any_width: bool = False) -> Tensor:
        """Attention and MLP: [B,T,D] → normalised hidden states [B,T,D] at the positions that `rotary` gives.

        `attn_hook` replaces the attention of each layer and makes the layers run eagerly: a cache changes shape with every token,
        and compiled layers would recompile each time. None = causal attention, compiled if `use_kernels` says so, or for `any_width`.
        """
        return self.finish(*self.layers(embedded, rotary, attn_hook, any_width=any_width))

    def logits(self, hidden: Tensor) -> Tensor:
        """Softcapped logits, fp32 [..., V]."""
        return softcap(self.lm_head(hidden))

    def loss(
        self, hidden: Tensor, targets: Tensor, reduction: str = "mean", weights: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Cross-entropy in nats, fp32: `mean` over the targets that are not −1, `none` = per target [B,T] (0 at −1), `both` = the
        mean and, without gradient, the losses per target. `weights`, fp32 [B], multiply the losses of the rows in the mean."""
        if weights is not None:
            losses = self.loss(hidden, targets, "none")
            mean = (losses * weights[:, None]).sum() / (targets != IGNORE).sum().clamp(min=1)
            return (mean, losses.detach()) if reduction == "both" else mean
        loss = self.lm_head.cross_entropy(hidden.flatten(0, -2), targets.flatten(), reduction, self.cross_entropy)
        if reduction == "both":
            return loss[0], loss[1].view(targets.shape)
        return loss.view(targets.shape) if reduction == "none" else loss

    def forward(self, tokens: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Next-token loss of plain rows; tokens and targets int64 [B,T]."""
        return self.loss(self.backbone(self.embed(tokens), self.rotary(0, tokens.shape[1])), targets, reduction)

    def flops_per_token(self) -> float:
        """Training FLOPs per token of a plain row; see `GPTConfig.flops_per_token`."""
        return self.config.flops_per_token()
