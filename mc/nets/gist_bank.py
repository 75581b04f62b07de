"""Gist bank of training rows: the embeddings of the tokens and the gists of every level, concatenated.

Shapes: `B` rows, `T` tokens, `W` entries, `D` width, `U`, `G`, `E` value embeddings as in `nanochat.model.gpt`. The bank of a row has
`M = T + S·⌊T/K⌋ + S·⌊T/K²⌋ + …` vectors, so that any layout of the row is one gather.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.layout.layout import Geometry, Layout, from_levels, tree_levels, widths
from mc.layout.positions import PositionType, entry_rotary
from mc.nets.child_attention import ChildKeys
from nanochat.model.gpt import Embedded, Rotary

MakeGists = Callable[[Tensor, Tensor | None], Tensor]  # (children [N,C,D], hidden states or None) → gists [N,S,D], as `GistNet` does


@dataclass(frozen=True)
class BankShape:
    """Shape of a row's bank: `length` tokens, the first `gisted` of which have gists of levels up to `max_lod`."""

    length: int
    gisted: int
    geometry: Geometry
    max_lod: int

    @property
    def levels(self) -> tuple[int, ...]:
        """Nodes of each level."""
        return tree_levels(self.length, self.gisted, self.geometry, self.max_lod)


class GistBank(NamedTuple):
    """Bank of B rows of one shape: x [B,M,D] and values [B,M,U,G,E], differentiable into gists and embeddings."""

    x: Tensor
    values: Tensor
    shape: BankShape


def build(embedded: Embedded, gistnet: MakeGists, shape: BankShape, hidden: Tensor | None = None) -> GistBank:
    """Builds the bank of `embedded` rows; gists of type `context` read `hidden` [B,T,D]."""
    geometry = shape.geometry
    x, values = embedded
    B, T, D = x.shape
    children, shared = x, values.flatten(2)  # (B, T, U·G·E)
    banks, value_banks = [x], [shared]
    for level, nodes in enumerate(shape.levels[1:], 1):
        C = geometry.block_size * geometry.size(level - 1)
        blocks = children[:, : nodes * C].reshape(B * nodes, C, D)
        states = hidden[:, : nodes * C].reshape(B * nodes, C, D) if level == 1 and hidden is not None else None
        children = gistnet(blocks, states).view(B, nodes * geometry.slots, D)
        # GistNet leaves value embeddings alone: a gist gets the mean over its children.
        ratio = geometry.stride(level) // geometry.stride(level - 1)
        shared = shared[:, : nodes * C].unflatten(1, (nodes * geometry.slots, ratio)).mean(2)
        banks.append(children)
        value_banks.append(shared)
    x, shared = torch.cat(banks, dim=1), torch.cat(value_banks, dim=1)
    return GistBank(x, shared.unflatten(2, values.shape[2:]), shape)


def bank_index(layout: Layout, shape: BankShape) -> Tensor:
    """Index into the bank of each entry of a legal `layout`, int64 [B,W]."""
    index = layout.start // shape.geometry.strides(layout.lod)
    # Comparisons instead of a table, which would have to be copied to the device in every call.
    for level, nodes in enumerate(shape.levels[:-1]):
        index = index + (layout.lod > level) * (nodes * shape.geometry.size(level))
    return index


def bank_layout(shape: BankShape, device: torch.device | str = "cpu") -> Layout:
    """(level, first token) of each vector of a row's bank, int64 [1,M]; the inverse of `bank_index`."""
    lods, starts = [], []
    for level, nodes in enumerate(shape.levels):
        starts.append(torch.arange(nodes * shape.geometry.size(level), device=device) * shape.geometry.stride(level))
        lods.append(torch.full_like(starts[-1], level))
    return Layout(torch.cat(lods)[None], torch.cat(starts)[None])


def assemble(bank: GistBank, index: Tensor) -> Embedded:
    """Gathers the entries at `index` int64 [V·B, W], V layouts of each row with layout v of row b at v·B + b."""
    flat = _flat_index(bank.x, index)
    x = F.embedding(flat, bank.x.flatten(0, 1))
    values = F.embedding(flat, bank.values.flatten(2).flatten(0, 1)).unflatten(-1, bank.values.shape[2:])
    return Embedded(x, values)


def _flat_index(bank: Tensor, index: Tensor) -> Tensor:
    """`index` [V·B, W] into `bank` [B,M,·] as an index into its flattened rows [B·M,·]."""
    B, M, _ = bank.shape
    rows = torch.arange(len(index), device=index.device) % B
    return index + rows[:, None] * M


def bank_child_keys(keys: Tensor, shape: BankShape, levels: Tensor, layout: Layout, decision: int, newest: int) -> ChildKeys:
    """Keys one level below the entries of layouts [V·B, W] that end at token `decision`.

    `keys` [B,M,·] are those of the whole bank; `levels` int64 [V·B, F] describes the same layouts as `layout`. The `newest` tokens
    belong to no entry.
    """
    geometry = shape.geometry
    inner = (levels - 1).clamp(min=0)
    # At most as many as tokens; if fewer, the padding starts at token 0.
    expanded = from_levels(inner, decision, decision, geometry)
    place = torch.arange(decision, device=levels.device)
    counts = (place < widths(inner, decision, geometry)[:, None]) & (expanded.start < decision - newest)
    entry = torch.searchsorted(layout.start.contiguous(), expanded.start.contiguous(), right=True) - 1
    flat = _flat_index(keys, bank_index(expanded, shape))
    return ChildKeys(F.embedding(flat, keys.flatten(0, 1)), entry.masked_fill(~counts, layout.start.shape[1]))


class Positions:
    """Rotations of entries. Those of a whole bank are computed once per shape, so that a layout's are the same gather as its entries."""

    def __init__(self, kind: PositionType, head_dim: int, dtype: torch.dtype) -> None:
        self.kind, self.head_dim, self.dtype = kind, head_dim, dtype
        self._banks: dict[tuple[BankShape, torch.device], Rotary] = {}

    def __call__(self, shape: BankShape, layout: Layout, index: Tensor) -> Rotary:
        """Rotation of each entry of `layout` [N,W]; `index` is `bank_index` of it."""
        if self.kind == "local":
            return entry_rotary(layout, shape.geometry, self.kind, self.head_dim, self.dtype)
        key = (shape, index.device)
        if key not in self._banks:
            rotary = entry_rotary(bank_layout(shape, index.device), shape.geometry, self.kind, self.head_dim, self.dtype)
            self._banks[key] = Rotary(*(t.view(-1, t.shape[-1]) for t in rotary))
        return Rotary(*(t[index].unsqueeze(2) for t in self._banks[key]))
