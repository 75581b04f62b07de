"""The bidirectional transformer that GistNet and LensNet share. Shapes: `N` sequences, `C` items, `D` width, `E` head size."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.gpt import MLP, QK_GAIN, Linear, Rotary, norm, rotate

HEAD_DIM = 32  # of the memory's own networks; their widths are multiples of it


class EncoderBlock(nn.Module):
    """Attention of every item to every item, with normalised queries and keys, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_qkv = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, rotary: Rotary | None, seen: Tensor | None = None) -> Tensor:
        """[N,C,D] → [N,C,D]; see `Encoder.forward`."""
        N, C, D = x.shape
        q, k, v = self.c_qkv(norm(x)).view(N, C, 3, D // HEAD_DIM, HEAD_DIM).unbind(2)
        q, k = norm(q) * QK_GAIN, norm(k) * QK_GAIN
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        y = _attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), seen)
        x = x + self.c_proj(y.transpose(1, 2).reshape(N, C, D))
        return x + self.mlp(norm(x))


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Attention of all to all, [N,H,C,E] each; to those that are True in `seen` [1,C] where it is given."""
    if q.device.type == "cpu" and q.dtype != torch.float32 and not torch.is_grad_enabled():
        # PyTorch's fused kernel for CPUs takes twice as long in bf16.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
        return torch.matmul((scores if seen is None else scores.masked_fill_(~seen, -torch.inf)).softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class Encoder(nn.Module):
    """`layers` blocks of `width` channels, a multiple of `HEAD_DIM`."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        assert width % HEAD_DIM == 0
        self.blocks = nn.ModuleList(EncoderBlock(width) for _ in range(layers))

    def forward(self, x: Tensor, rotary: Rotary | None = None, seen: Tensor | None = None) -> Tensor:
        """[N,C,D] → normalised [N,C,D]; `rotary`, of head size `HEAD_DIM`, says where items are; without, they are a set.

        Items that are False in `seen`, bool [1,C], are attended to by none.
        """
        for block in self.blocks:
            x = block(x, rotary, seen)
        return norm(x)


@torch.no_grad()
def init_linear(weight: Tensor, generator: torch.Generator | None, gain: float = 1.0) -> None:
    """Uniform with standard deviation `gain / √fan_in`."""
    bound = gain * (3 / weight.shape[1]) ** 0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)


@torch.no_grad()
def init_encoder(encoder: Encoder, generator: torch.Generator | None) -> None:
    """As the language model's layers: output projections start at zero, so that every layer passes its input on."""
    for block in encoder.blocks:
        init_linear(block.c_qkv.weight, generator)
        init_linear(block.mlp.c_fc.weight, generator, 0.4)
        nn.init.zeros_(block.c_proj.weight)
        nn.init.zeros_(block.mlp.c_proj.weight)
