"""Position encodings of entries: rotations and biases for tokens and gists in one sequence.

A gist stands at the centre of the tokens it accounts for. Gaussian RoPE rotates by the expectation over them: frequency f
is damped by `exp(−½ (σ f)²)`, σ the standard deviation of a uniform position over the stride (the expectation of a Gaussian
of that width). A token has σ = 0, so a layout of tokens alone gets exactly ordinary RoPE.

Shapes: `B` rows, `W` entries, `E` head size, `H` query heads.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mc.layout.layout import Geometry, Layout
from nanochat.model.block import Rotary, rotary_angles, rotary_at, rotary_frequencies

PositionType = Literal["gaussian", "simple", "gaussian_lod2d", "gaussian_alibi", "gaussian_lod2d_alibi", "local"]
LOD_SHARE = 4  # lod2d: the lowest 1/LOD_SHARE of the frequencies also rotate with the level
LOD_ANGLE = math.pi / 4  # per level


def entry_rotary(layout: Layout, geometry: Geometry, kind: PositionType, head_dim: int, dtype: torch.dtype) -> Rotary:
    """The rotation of each entry: cos and sin [B,W,1,E/2] in `dtype`.

    `local` uses the entry's index instead of its tokens, the same for all rows: [1,W,1,E/2].
    """
    lod, start = layout
    if kind == "local":
        return rotary_at(torch.arange(start.shape[1], device=start.device), head_dim, dtype)
    stride = geometry.strides(lod).double()
    frequency = rotary_frequencies(head_dim, start.device)  # (E/2,)
    angles = rotary_angles(start + (stride - 1) / 2, frequency)
    if "lod2d" in kind:
        slow = torch.arange(head_dim // 2, device=start.device) >= head_dim // 2 - head_dim // 2 // LOD_SHARE
        angles = angles + slow * (lod[..., None] * LOD_ANGLE)
    damping = torch.ones_like(angles)
    if kind != "simple":
        variance = ((stride * stride - 1) / 12).float()
        damping = torch.exp(-0.5 * variance[..., None] * frequency.square())
    cos, sin = angles.cos() * damping, angles.sin() * damping
    return Rotary(cos.to(dtype).unsqueeze(2), sin.to(dtype).unsqueeze(2))


def alibi_bias(layout: Layout, geometry: Geometry, kind: PositionType, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Causal mask with ALiBi (arXiv 2108.12409) for gists, [B,H,W,W] to be added to the scores; None for kinds without.

    Keys that are gists are penalised by the head's slope per block of distance. Keys that are tokens are not, so a layout of
    tokens alone is attended to as by a model without windows, up to rounding: attention with a mask uses another kernel.
    """
    if not kind.endswith("alibi"):
        return None
    lod, start = layout
    W = start.shape[1]
    centre = start.float() + (geometry.strides(lod).float() - 1) / 2
    distance = (centre[:, :, None] - centre[:, None, :]) / geometry.block_size  # (B, W, W), query − key
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1, device=start.device) / heads)
    bias = -slopes[None, :, None, None] * (distance * (lod > 0)[:, None, :])[:, None]
    future = torch.ones(W, W, dtype=torch.bool, device=start.device).triu(1)
    return bias.masked_fill(future, -math.inf).to(dtype)
