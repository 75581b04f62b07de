"""The language model: embed → backbone → loss, three functions that training, memory and inference compose.

Shapes: `B` rows, `T` positions, `D` width, `H` query heads, `G` key/value heads, `E` head size, `V` vocabulary,
`L` layers, `U` layers with value embeddings. Parameters are fp32; activations are in the compute dtype.

A 2026 GPT: rotary positions, QK-norm, ReLU² MLP, parameter-free RMSNorm (also after the embedding), grouped queries,
softcapped logits, and from modded-nanogpt and karpathy/nanochat: value embeddings with per-head gates (ResFormer,
arXiv 2410.17897), residual and x0 scalars, smear (previous token mixed into the embedding), backout (a share of the
middle layer subtracted before the head), sliding windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.flags import flag
from nanochat.model.attention import Backend, attention
from nanochat.model.cross_entropy import IGNORE, ChunkedCrossEntropy, plain_cross_entropy, softcap
from nanochat.model.norm import fused_norm, norm

GATE_CHANNELS = 12  # channels of the input that a value-embedding gate reads
SMEAR_CHANNELS = 24  # channels of the embedding that the smear gate reads
QK_GAIN = 1.2  # normalised queries and keys are each scaled by this: sharper attention
ROTARY_BASE = 100_000.0


@dataclass
class GPTConfig:
    """Shape of the model: one dial, the depth, sets the rest."""

    depth: int = flag(12, "layers", unit="layers")
    aspect_ratio: int = flag(64, "width = depth × aspect ratio, rounded up to the head size", unit="channels per layer")
    head_dim: int = flag(128, "size of an attention head", unit="channels")
    kv_heads: int = flag(0, "key/value heads; 0 = as many as query heads", unit="heads")
    max_seq_len: int = flag(2048, "context length", unit="tokens")
    window_pattern: str = flag("auto", "per layer L (full context) or S (a quarter), tiled, last layer L; auto = what is fast here")
    vocab_size: int = 32768

    def __post_init__(self) -> None:
        for name in ("depth", "aspect_ratio", "head_dim", "max_seq_len", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need an even number")
        if self.width < SMEAR_CHANNELS:
            raise ValueError(f"width {self.width} (depth × aspect_ratio) is below {SMEAR_CHANNELS}")
        if self.kv_heads < 0 or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide the {self.heads} query heads")
        if self.window_pattern != "auto" and (not self.window_pattern or set(self.window_pattern.upper()) - set("SL")):
            raise ValueError(f"window_pattern is {self.window_pattern!r}; it must be auto or made of S and L")

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
        """Window of each layer in tokens; 0 is the full context."""
        if self.window_pattern == "auto":
            raise ValueError("window_pattern is still auto; resolve it with attention.best_window_pattern")
        quarter = -(-self.max_seq_len // 4)
        pattern = self.window_pattern.upper()
        return [quarter if pattern[i % len(pattern)] == "S" and i < self.depth - 1 else 0 for i in range(self.depth)]

    @property
    def scaling_parameters(self) -> int:
        """Parameters that the scaling laws count: the matrices of the layers, gates included, and the head."""
        D, kv = self.width, self.key_heads * self.head_dim
        layer = 2 * D * D + 2 * D * kv + 8 * D * D  # queries and output, keys and values, MLP
        gates = sum(self.has_values(i) for i in range(self.depth)) * GATE_CHANNELS * self.key_heads
        return self.depth * layer + gates + D * self.vocab_size

    def flops_per_token(self) -> float:
        """Training FLOPs per token: matmuls, 6 for each parameter, and attention over each layer's mean visible context.

        Position t sees min(t+1, window) keys; 12·D FLOPs for each (PaLM, arXiv 2204.02311, appendix B).
        """
        T = self.max_seq_len
        seen = 0.0
        for window in self.windows:
            w = min(window or T, T)
            seen += (w * (w + 1) / 2 + (T - w) * w) / T
        return 6 * (self.scaling_parameters + SMEAR_CHANNELS) + 12 * self.width * seen

    def has_values(self, layer: int) -> bool:
        """Whether `layer` has value embeddings: every other one, counted back from the last."""
        return (self.depth - 1 - layer) % 2 == 0


class Embedded(NamedTuple):
    """What token-space work yields: all that the backbone needs to know of the tokens."""

    x: Tensor  # (B, T, D) in the compute dtype
    values: Tensor  # (B, T, U, G, E), value embeddings of the layers that have them


class Rotary(NamedTuple):
    """Rotation of each position: cos and sin, (B or 1, T, 1, E/2) in the compute dtype."""

    cos: Tensor
    sin: Tensor


def pad_entries(embedded: Embedded, rotary: Rotary, multiple: int) -> tuple[Embedded, Rotary]:
    """The same with zeros behind, up to a multiple of `multiple` positions: none of the others sees them.

    Preparing products of a new shape takes a CPU longer than the products themselves: where every length comes up, few do so.
    """
    padding = -embedded.x.shape[1] % multiple
    if not padding:
        return embedded, rotary
    padded = Embedded(F.pad(embedded.x, (0, 0, 0, padding)), F.pad(embedded.values, (0, 0, 0, 0, 0, 0, 0, padding)))
    return padded, Rotary(*(F.pad(part, (0, 0, 0, 0, 0, padding)) for part in rotary))


class Linear(nn.Linear):
    """A bias-free linear map with fp32 weights that computes in the dtype of its input."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotates the two halves of each head, x (B, T, heads, E), by its position's angles (RoFormer, arXiv 2104.09864)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * rotary.cos - b * rotary.sin, b * rotary.cos + a * rotary.sin], dim=-1)


def place(x: Tensor, rotary: Rotary, normalise: Callable[[Tensor], Tensor] = norm) -> Tensor:
    """Projected queries or keys (B, T, heads, E) as attention compares them: normalised, scaled, rotated."""
    return rotate(normalise(x) * QK_GAIN, rotary)


def rotary_frequencies(head_dim: int, device: torch.device | str) -> Tensor:
    """Radians by which each pair of channels turns from one position to the next, fp32 [E/2]."""
    return ROTARY_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def rotary_angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Angles [..., E/2] at `positions` [...], within a turn: in fp32 a product of millions would not be known to a radian."""
    wide = torch.float32 if positions.device.type == "mps" else torch.float64  # which has no fp64
    return (positions.to(wide).unsqueeze(-1) * frequencies).remainder(2 * math.pi).float()


def rotary_at(positions: Tensor, head_dim: int, dtype: torch.dtype) -> Rotary:
    """Ordinary RoPE at `positions` ((T,) or (B,T), any numeric dtype)."""
    angles = rotary_angles(positions, rotary_frequencies(head_dim, positions.device))
    angles = (angles if angles.ndim == 3 else angles[None]).unsqueeze(2)  # (B or 1, T, 1, E/2)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype))


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        D, E, G = config.width, config.head_dim, config.key_heads
        self.head_dim = E
        self.c_q = Linear(D, D)
        self.c_k = Linear(D, G * E)
        self.c_v = Linear(D, G * E)
        self.c_proj = Linear(D, D)
        self.value_gate = Linear(GATE_CHANNELS, G) if config.has_values(layer) else None
        self.norm: Callable[[Tensor], Tensor] = norm

    def forward(self, x, values: Tensor | None, rotary: Rotary, window: int, backend: Backend, cache=None, bias=None) -> Tensor:
        B, T, D = x.shape
        E = self.head_dim
        if cache is None:
            # One matmul for the three projections; the optimizer still sees three matrices.
            weight = torch.cat([self.c_q.weight, self.c_k.weight, self.c_v.weight]).to(x.dtype)
            kv = self.c_k.weight.shape[0]
            q, k, v = F.linear(x, weight).split([D, kv, kv], dim=-1)
        else:
            # For a token or two, joining the matrices would cost more than multiplying by them.
            q, k, v = self.c_q(x), self.c_k(x), self.c_v(x)
        q, k, v = q.view(B, T, -1, E), k.view(B, T, -1, E), v.view(B, T, -1, E)
        if values is not None:
            gate = 3 * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * values
        q, k = place(q, rotary, self.norm), place(k, rotary, self.norm)
        y = attention(q, k, v, window, backend, mask=bias) if cache is None else cache.attend(q, k, v, window, backend)
        return self.c_proj(y.reshape(B, T, D))


class MLP(nn.Module):
    """Two matrices around a squared ReLU (Primer, arXiv 2109.08668)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """One layer: the residual stream mixed with the embedding, then attention, then the MLP."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config.width)
        self.norm: Callable[[Tensor], Tensor] = norm

    def forward(self, x, x0, scales, values, rotary, window, backend, cache=None, bias=None) -> Tensor:
        x = scales[0] * x + scales[1] * x0
        x = x + self.attn(self.norm(x), values, rotary, window, backend, cache, bias)
        return x + self.mlp(self.norm(x))


class GPT(nn.Module):
    """The model. `embed`, `backbone` and `loss` are its parts; `forward` composes them for a plain row of tokens."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype = torch.float32, backend: Backend = "sdpa") -> None:
        super().__init__()
        self.config, self.dtype, self.backend = config, dtype, backend
        self.windows = config.windows
        V, D, L = config.vocab_size, config.width, config.depth
        self.value_layers = [i for i in range(L) if config.has_values(i)]
        self.wte = nn.Embedding(V, D)
        self.value_embeds = nn.Embedding(V, len(self.value_layers) * config.key_heads * config.head_dim)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(L))
        self.lm_head = Linear(D, V)
        self.resid_lambdas = nn.Parameter(torch.empty(L))
        self.x0_lambdas = nn.Parameter(torch.empty(L))
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.empty(1))
        self.backout_lambda = nn.Parameter(torch.empty(1))
        self.cross_entropy = plain_cross_entropy
        self.norm: Callable[[Tensor], Tensor] = norm
        self._rotary: Rotary | None = None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> GPT:
        """Initialises every parameter; the same generator state gives the same model. Returns self."""
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
            # Zero output projections: at the start every layer passes the residual stream on unchanged.
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

    def use_kernels(self, compiled: bool, chunked_ce: bool, fused_rmsnorm: bool = False) -> GPT:
        """Chooses how the same mathematics runs: layers compiled or eager, the loss in chunks or whole, norms as one operation
        each (see `rms_norm.fused_norm`). Returns self."""
        for part in (self, *self.blocks, *(block.attn for block in self.blocks)):
            part.norm = fused_norm if fused_rmsnorm else norm
        if compiled:
            # Layers share their code, and each kind, window and shape is compiled once. Past the default of 8 the compiler would
            # run the rest eagerly, with no more than a warning.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            for block in self.blocks:
                block.compile(dynamic=False)
        self.cross_entropy = ChunkedCrossEntropy(compiled) if chunked_ce else plain_cross_entropy
        return self

    def embed(self, tokens: Tensor, previous: Tensor | None = None) -> Embedded:
        """Token-space work on `tokens` (int64 [B,T]): embedding, norm, smear, value embeddings.

        `previous` is the normalised embedding [B,D] of the token before each row, where a cache has one.
        """
        x = self.norm(self.wte(tokens).to(self.dtype))
        before = torch.zeros_like(x[:, :1]) if previous is None else previous[:, None]
        before = torch.cat([before, x[:, :-1]], dim=1)
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
        values = self.value_embeds(tokens).to(self.dtype)
        shape = (*tokens.shape, len(self.value_layers), self.config.key_heads, self.config.head_dim)
        return Embedded(x + gate * before, values.view(shape))

    def rotary(self, start: int, end: int) -> Rotary:
        """Ordinary RoPE of positions start … end−1, from a table that grows as needed."""
        device = self.wte.weight.device
        if self._rotary is None or self._rotary.cos.shape[1] < end or self._rotary.cos.device != device:
            size = self.config.max_seq_len
            while size < end:  # doubled: decoding past it must not make a new table for every token
                size *= 2
            self._rotary = rotary_at(torch.arange(size, device=device), self.config.head_dim, self.dtype)
        return Rotary(self._rotary.cos[:, start:end], self._rotary.sin[:, start:end])

    def layers(
        self,
        embedded: Embedded,
        rotary: Rotary,
        cache=None,
        bias: Tensor | None = None,
        inputs: list[Tensor] | None = None,
        half: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream [B,T,D] after the last layer and after the middle one; see `backbone`.

        `inputs`, where given, gets the stream before each layer. With `half` the middle layer is the last one that runs.
        """
        x = x0 = middle = embedded.x
        scales = torch.stack([self.resid_lambdas, self.x0_lambdas], dim=1).to(x.dtype)  # (L, 2)
        for i, block in enumerate(self.blocks):
            values = embedded.values[:, :, self.value_layers.index(i)] if i in self.value_layers else None
            layer_cache = None if cache is None else cache.layer(i)
            if inputs is not None:
                inputs.append(x)
            # A cache changes shape from token to token, and a compiled layer would compile anew each time.
            run = block if cache is None else block.forward
            x = run(x, x0, scales[i], values, rotary, self.windows[i], self.backend, layer_cache, bias)
            if i == len(self.blocks) // 2:
                middle = x
                if half:
                    break
        return x, middle

    def finish(self, x: Tensor, middle: Tensor) -> Tensor:
        """What the head reads, from what `layers` returns: the backout of the middle layer, and the norm."""
        return self.norm(x - self.backout_lambda.to(x.dtype) * middle)

    def backbone(self, embedded: Embedded, rotary: Rotary, cache=None, bias: Tensor | None = None) -> Tensor:
        """Attention and MLP: [B,T,D] → normalised hidden states [B,T,D]. Positions come from outside, as `rotary`.

        `cache`, where given, holds the keys and values of earlier positions (`kv_cache.KVCache`). `bias` [B,1 or H,T,T] is
        added to the attention scores; it must be −inf where a position may not look, and windows then count for nothing.
        """
        return self.finish(*self.layers(embedded, rotary, cache, bias))

    def logits(self, hidden: Tensor) -> Tensor:
        """Softcapped logits, fp32 [..., V]."""
        return softcap(self.lm_head(hidden))

    def loss(
        self, hidden: Tensor, targets: Tensor, reduction: str = "mean", weights: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Cross-entropy in nats, fp32: the mean over targets that are not −1, with `none` each one [B,T] (0 where −1), with
        `both` the mean and, without a gradient, each one. `weights`, fp32 [B], multiply the losses of the rows in the mean."""
        if weights is not None:
            losses = self.loss(hidden, targets, "none")
            mean = (losses * weights[:, None]).sum() / (targets != IGNORE).sum().clamp(min=1)
            return (mean, losses.detach()) if reduction == "both" else mean
        weight = self.lm_head.weight.to(hidden.dtype)
        loss = self.cross_entropy(hidden.flatten(0, -2), weight, targets.flatten(), reduction)
        if reduction == "both":
            return loss[0], loss[1].view(targets.shape)
        return loss.view(targets.shape) if reduction == "none" else loss

    def forward(self, tokens: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Next-token loss of plain rows: tokens and targets int64 [B,T]."""
        return self.loss(self.backbone(self.embed(tokens), self.rotary(0, tokens.shape[1])), targets, reduction)

    def flops_per_token(self) -> float:
        """Training FLOPs per token of a plain row; see `GPTConfig.flops_per_token`."""
        return self.config.flops_per_token()
