"""Layered gists: keys and values of a node in every layer of the model, and a bias that stands for its number of tokens.

A gist's key and value are the means of its children's, and its bias is the logarithm of the tokens that it stands for: n tokens with
equal keys get n times the attention of one, which a single entry would lose. Learned corrections start at zero. A gist's key is
relative to the first token of its node, i.e. rotated as if that were token 0, so that the node can be read at any position (`turned`).

Shapes: `L` layers, `N` nodes, `C` children of a node (K tokens or K·S slots), `S` slots, `G` key heads, `E` head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from mc.layout.layout import Geometry
from nanochat.model.attention import MemoryEntries
from nanochat.model.block import rotary_at, rotate


class LayeredEntries(NamedTuple):
    """Entries in every layer: keys and values [L,N,M,G,E], and biases of their scores, fp32 [L,N,M,G]."""

    keys: Tensor
    values: Tensor
    bias: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> LayeredEntries:
        """Applies `change` to the three tensors."""
        return LayeredEntries(*map(change, self))

    def by_layer(self) -> list[MemoryEntries]:
        """The entries as the layers of a model read them."""
        return [MemoryEntries(k, v, b.transpose(1, 2)) for k, v, b in zip(*self, strict=True)]


def tokens_as_entries(keys: Tensor, values: Tensor) -> LayeredEntries:
    """Raw tokens with keys and values [L,N,M,G,E]: their biases are zero."""
    return LayeredEntries(keys, values, torch.zeros(keys.shape[:-1], dtype=torch.float32, device=keys.device))


def join(parts: list[LayeredEntries]) -> LayeredEntries:
    """Concatenates entries of the same N."""
    return LayeredEntries(*(torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True)))


def turned(keys: Tensor, positions: Tensor) -> Tensor:
    """Keys [L,N,M,G,E] moved by `positions`, integers [N,M] or [M]; negative ones move them back."""
    return rotate(keys, rotary_at(positions.expand(keys.shape[1:3]), keys.shape[-1], keys.dtype))


class LayeredGistNet(nn.Module):
    """Gists [L,N,S,·] of nodes from the entries of their children [L,N,C,·]."""

    def __init__(self, layers: int, key_heads: int, head_dim: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry, self.shape = geometry, (layers, key_heads, head_dim)
        heads, joint = layers * key_heads, 2 * head_dim
        # One tall matrix of all heads, which the optimizer treats as a matrix: [key, value] of a head → their corrections.
        self.correction = nn.Parameter(torch.empty(heads * joint, joint))
        self.mass = nn.Parameter(torch.empty(layers, key_heads, joint + 1))  # [key, value, 1] of a head → the correction of its bias

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> LayeredGistNet:
        """Initialises all corrections to zero. Returns self."""
        nn.init.zeros_(self.correction)
        nn.init.zeros_(self.mass)
        return self

    def of_tokens(self, tokens: LayeredEntries, start: Tensor) -> LayeredEntries:
        """Gists of level 1 of blocks of K tokens each; `start`, int64 [N], are the positions that their first keys are rotated by."""
        merged = self._merged(tokens)
        return self._corrected(merged._replace(keys=turned(merged.keys, -start[:, None])))

    def of_gists(self, children: LayeredEntries, level: int) -> LayeredEntries:
        """Gists of `level` ≥ 2 from the K·S gists of their K children."""
        geometry = self.geometry
        child = torch.arange(geometry.block_size, device=children.keys.device).repeat_interleave(geometry.slots)
        placed = turned(children.keys, child * geometry.span(level - 1))
        return self._corrected(self._merged(children._replace(keys=placed)))

    def _merged(self, children: LayeredEntries) -> LayeredEntries:
        """Means of the children of each slot, which stand for equally many tokens; the masses add up."""
        keys, values, bias = children.each(lambda part: part.unflatten(2, (self.geometry.slots, -1)))
        return LayeredEntries(keys.mean(3), values.mean(3), bias.logsumexp(3))

    def _corrected(self, gists: LayeredEntries) -> LayeredEntries:
        L, G, E = self.shape
        joint = torch.cat([gists.keys, gists.values], dim=-1)  # (L, N, S, G, 2E)
        correction = self.correction.view(L, G, 2 * E, 2 * E).to(joint.dtype)
        mass = self.mass[:, None, None]
        bias = gists.bias + (joint.float() * mass[..., :-1]).sum(-1) + mass[..., -1]
        keys, values = (joint + torch.einsum("lnsge,lgfe->lnsgf", joint, correction)).chunk(2, dim=-1)
        return LayeredEntries(keys, values, bias)
