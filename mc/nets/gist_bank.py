"""The tree of a training row, in RAM: its tokens' embeddings and, level upon level, the gists of its complete blocks.

Shapes: `B` rows, `T` tokens, `W` entries, `D` width, `U`, `G`, `E` value embeddings as in `nanochat.model.gpt`. All levels lie side
by side in one *bank* of `M = T + S·⌊T/K⌋ + S·⌊T/K²⌋ + …` vectors, so that any layout of the row is one gather.
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


class GistBank(NamedTuple):
    """The bank of B rows: x [B,M,D] and values [B,M,U,G,E], differentiable into gists and embeddings."""

    x: Tensor
    values: Tensor


@dataclass(frozen=True)
class BankShape:
    """Of a row's tree: T tokens, of which the first T' have gists, of levels up to `max_lod`."""

    length: int
    gisted: int
    geometry: Geometry
    max_lod: int

    @property
    def levels(self) -> tuple[int, ...]:
        """Nodes of each level."""
        return tree_levels(self.length, self.gisted, self.geometry, self.max_lod)


def build(embedded: Embedded, gistnet: MakeGists, shape: BankShape, hidden: Tensor | None = None) -> GistBank:
    """The tree of `embedded` rows. `hidden` [B,T,D] is what gists of type `context` read."""
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
        # Value embeddings are no business of GistNet's: a gist has the mean of those it accounts for.
        ratio = geometry.stride(level) // geometry.stride(level - 1)
        shared = shared[:, : nodes * C].unflatten(1, (nodes * geometry.slots, ratio)).mean(2)
        banks.append(children)
        value_banks.append(shared)
    x, shared = torch.cat(banks, dim=1), torch.cat(value_banks, dim=1)
    return GistBank(x, shared.unflatten(2, values.shape[2:]))


def bank_index(layout: Layout, shape: BankShape) -> Tensor:
    """Where in the bank each entry of a legal `layout` lies, int64 [B,W]."""
    index = layout.start // shape.geometry.strides(layout.lod)
    # By comparisons and not by a table, which would have to be copied to the device for every call.
    for level, nodes in enumerate(shape.levels[:-1]):
        index = index + (layout.lod > level) * (nodes * shape.geometry.size(level))
    return index


def bank_layout(shape: BankShape, device: torch.device | str = "cpu") -> Layout:
    """(level, token) of each vector of the bank of a row, int64 [1,M]: what `bank_index` inverts."""
    lods, starts = [], []
    for level, nodes in enumerate(shape.levels):
        starts.append(torch.arange(nodes * shape.geometry.size(level), device=device) * shape.geometry.stride(level))
        lods.append(torch.full_like(starts[-1], level))
    return Layout(torch.cat(lods)[None], torch.cat(starts)[None])


def assemble(tree: GistBank, index: Tensor) -> Embedded:
    """The entries at `index` int64 [V·B, W], V layouts of each row with layout v of row b at v·B + b: one gather."""
    flat = _in_all_rows(tree.x, index)
    x = F.embedding(flat, tree.x.flatten(0, 1))
    values = F.embedding(flat, tree.values.flatten(2).flatten(0, 1)).unflatten(-1, tree.values.shape[2:])
    return Embedded(x, values)


def _in_all_rows(bank: Tensor, index: Tensor) -> Tensor:
    """Where the entries at `index` [V·B, W] of `bank` [B,M,·] lie where all rows are one behind the other."""
    B, M, _ = bank.shape
    rows = torch.arange(len(index), device=index.device) % B
    return index + rows[:, None] * M


def look_below(keys: Tensor, shape: BankShape, levels: Tensor, layout: Layout, decision: int, newest: int) -> ChildKeys:
    """What lies one level below the entries of layouts [V·B, W] that end at token `decision`.

    `keys` [B,M,·] are of the whole bank, `levels` int64 [V·B, F] says the same as `layout`. The `newest` tokens lie under no entry.
    """
    geometry = shape.geometry
    inner = (levels - 1).clamp(min=0)
    # There are at most as many as tokens; where there are fewer, what is left begins at token 0.
    expanded = from_levels(inner, decision, decision, geometry)
    place = torch.arange(decision, device=levels.device)
    counts = (place < widths(inner, decision, geometry)[:, None]) & (expanded.start < decision - newest)
    entry = torch.searchsorted(layout.start.contiguous(), expanded.start.contiguous(), right=True) - 1
    flat = _in_all_rows(keys, bank_index(expanded, shape))
    return ChildKeys(F.embedding(flat, keys.flatten(0, 1)), entry.masked_fill(~counts, layout.start.shape[1]))


class Positions:
    """The rotations of a row's whole bank, made once, so that those of a layout are the same gather."""

    def __init__(self, shape: BankShape, kind: PositionType, head_dim: int, dtype: torch.dtype) -> None:
        self.shape, self.kind, self.head_dim, self.dtype = shape, kind, head_dim, dtype
        self._bank: Rotary | None = None

    def __call__(self, layout: Layout, index: Tensor) -> Rotary:
        """The rotation of each entry of `layout` [N,W], which lies at `index` in the bank."""
        if self.kind == "local":
            return entry_rotary(layout, self.shape.geometry, self.kind, self.head_dim, self.dtype)
        if self._bank is None or self._bank.cos.device != index.device:
            everything = bank_layout(self.shape, index.device)
            rotary = entry_rotary(everything, self.shape.geometry, self.kind, self.head_dim, self.dtype)
            self._bank = Rotary(*(t.view(-1, t.shape[-1]) for t in rotary))
        return Rotary(*(t[index].unsqueeze(2) for t in self._bank))
