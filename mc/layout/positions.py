"""Position encodings of entries: rotations for tokens and gists in one sequence.

A gist stands at the centre of the tokens it accounts for. Gaussian RoPE rotates by the expectation over them: frequency f
is damped by `exp(−½ (σ f)²)`, σ the standard deviation of a uniform position over the stride (the expectation of a Gaussian
of that width). A token has σ = 0, so a layout of tokens alone gets exactly ordinary RoPE.

Shapes: `B` rows, `W` entries, `E` head size.
"""

from __future__ import annotations

from typing import Literal

import torch

from mc.layout.layout import Geometry, Layout
from nanochat.model.block import Rotary, rotary_angles, rotary_at, rotary_frequencies

PositionType = Literal["gaussian", "simple", "local"]


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
    damping = torch.ones_like(angles)
    if kind != "simple":
        variance = ((stride * stride - 1) / 12).float()
        damping = torch.exp(-0.5 * variance[..., None] * frequency.square())
    cos, sin = angles.cos() * damping, angles.sin() * damping
    return Rotary(cos.to(dtype).unsqueeze(2), sin.to(dtype).unsqueeze(2))
