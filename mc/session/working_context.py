"""Working Context of a session: its layout, and the vectors of its entries.

An edit computes vectors for new entries only. Shapes: `W` entries, `D` width, `S` slots, `U`, `G`, `E` value embeddings as in
`nanochat.model.gpt`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mc.layout.layout import Layout
from mc.layout.positions import PositionType, entry_rotary
from mc.layout.tiling import Tiling, raw
from mc.session.tree import MegaContextTree
from mc.session.tree_builder import embed, value_means
from nanochat.model.gpt import GPT, Embedded, Rotary, rotary_at


class WorkingContext:
    """Entries of `tree` that the model reads, in the order of the tokens they stand for."""

    def __init__(self, model: GPT, tree: MegaContextTree, kind: PositionType) -> None:
        self._model, self._tree, self._kind = model, tree, kind
        self.tiling = raw(0, 0)
        D, device = model.config.width, model.wte.weight.device
        self.x = torch.zeros(0, D, dtype=model.dtype, device=device)  # (W, D)
        shape = (len(model.value_layers), model.config.key_heads, model.config.head_dim)
        self.values = torch.zeros(0, *shape, dtype=model.dtype, device=device)  # (W, U, G, E)

    def __len__(self) -> int:
        """Number of entries, W."""
        return len(self.tiling.lod)

    @property
    def layout(self) -> Layout:
        """The layout as a batch of one row, on the model's device."""
        return self.tiling.layout(self.x.device)

    def change(self, tiling: Tiling, source: np.ndarray) -> int:
        """Changes to `tiling`, whose entry i was entry `source[i]`, or is new if that is −1. Returns the first changed entry."""
        W = len(tiling.lod)
        same = np.flatnonzero(source[: len(self)] != np.arange(min(len(self), W)))
        first = int(same[0]) if len(same) else min(len(self), W)
        kept, at = torch.from_numpy(source[first:].clip(min=0)).to(self.x.device), torch.from_numpy(np.flatnonzero(source[first:] < 0))
        if len(self):
            x, values = self.x[kept], self.values[kept]
        else:
            x, values = self.x.new_zeros(W, self.x.shape[1]), self.values.new_zeros(W, *self.values.shape[1:])
        if len(at):
            new = tiling.some(slice(first, None)).some(source[first:] < 0)
            made, at = self._vectors(new), at.to(x.device)
            x[at], values[at] = made.x, made.values
        self.x, self.values = torch.cat([self.x[:first], x]), torch.cat([self.values[:first], values])
        self.tiling = tiling
        return first

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """Entries from index `begin` on, and their rotations, as batches of one row."""
        places = self.tiling.some(slice(begin, None))
        return Embedded(self.x[None, begin:], self.values[None, begin:]), self.rotary(places, begin)

    def rotary(self, places: Tiling, begin: int) -> Rotary:
        """Rotations of entries at `places`, the first of which has index `begin`, as a batch of one row."""
        head_dim, dtype, device = self._model.config.head_dim, self._model.dtype, self.x.device
        if self._kind == "local":
            return rotary_at(torch.arange(begin, begin + len(places.lod), device=device), head_dim, dtype)
        return entry_rotary(places.layout(device), self._tree.spec.geometry, self._kind, head_dim, dtype)

    def _vectors(self, new: Tiling) -> Embedded:
        """x [n,D] and values [n,U,G,E] of new entries."""
        x = self.x.new_empty(len(new.lod), self.x.shape[1])
        values = self.values.new_empty(len(new.lod), *self.values.shape[1:])
        for begin, end in _runs(new):
            start = int(new.start[begin])
            made = embed(self._model, self._tree, start, self._tree.tokens(start, start + end - begin))
            x[begin:end], values[begin:end] = made.x, made.values
        for level in np.unique(new.lod[new.lod > 0]).tolist():
            at = np.flatnonzero(new.lod == level)
            span, stride = self._tree.spec.geometry.span(level), self._tree.spec.geometry.stride(level)
            node, slot = torch.from_numpy(new.start[at] // span), torch.from_numpy(new.start[at] % span // stride)
            nodes, which = node.unique(return_inverse=True)
            place = torch.from_numpy(at).to(x.device)
            x[place] = self._tree.gists(level, nodes)[which, slot].to(x)
            values[place] = self._values(level, nodes)[which, slot].to(values).view(-1, *values.shape[1:])
        return Embedded(x, values)

    def _values(self, level: int, nodes: Tensor) -> Tensor:
        """Mean value embeddings of the slots of nodes: [N,S,U·G·E]."""
        spec = self._tree.spec
        if level >= spec.stored_values_from:
            return self._tree.values(level, nodes)
        span = spec.geometry.span(level)
        tokens = torch.stack([self._tree.tokens(node * span, (node + 1) * span) for node in nodes.tolist()])
        return value_means(self._model, tokens, spec.geometry.slots).cpu()


def _runs(tiling: Tiling) -> Iterator[tuple[int, int]]:
    """Half-open ranges of entries that are consecutive raw tokens."""
    raw = tiling.lod == 0
    joined = np.zeros(len(raw), dtype=bool)  # with the entry before
    joined[1:] = raw[1:] & raw[:-1] & (np.diff(tiling.start) == 1)
    begins = np.flatnonzero(raw & ~joined)
    ends = np.flatnonzero(raw & ~np.append(joined[1:], False)) + 1
    yield from zip(begins.tolist(), ends.tolist(), strict=True)
