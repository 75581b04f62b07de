"""Caches LensNet keys of the children of every gist in the Working Context, so that a refocus encodes new nodes only.

Shapes: `n` nodes, `C` vectors below a node, `H·E` numbers of a key, as in `mc.nets.child_attention`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mc.layout.tiling import Tiling
from mc.nets.child_attention import ChildAttention, ChildKeys
from mc.session.tree import MegaContextTree
from mc.session.tree_builder import embed
from nanochat.model.gpt import GPT


class ChildKeyCache:
    """Keys of the children of the nodes of `tree` that are entries. Nodes never change, so keys stay valid."""

    def __init__(self, model: GPT, tree: MegaContextTree, matching: ChildAttention) -> None:
        self._model, self._tree, self._matching = model, tree, matching
        self._kept: dict[int, tuple[np.ndarray, Tensor]] = {}  # level → nodes int64 [n], ascending, and keys [n,C,H·E]

    def __call__(self, tiling: Tiling, x: Tensor, newest: int) -> ChildKeys:
        """Child keys of the entries x [W,D] of `tiling` without the `newest`, which are tokens, as a batch of one row."""
        geometry = self._tree.spec.geometry
        lod, start = (part[: max(0, len(x) - newest)] for part in tiling)
        alone = np.flatnonzero(lod == 0)
        keys, tokens = [self._matching.keys(x[torch.from_numpy(alone).to(x.device)])], [start[alone]]
        kept = {}
        for level in np.unique(lod[lod > 0]).tolist():
            nodes = np.unique(start[lod == level] // geometry.span(level))
            kept[level] = nodes, self._keys(level, nodes)
            keys.append(kept[level][1].flatten(0, 1))
            places = np.arange(geometry.block_size * geometry.size(level - 1)) * geometry.stride(level - 1)
            tokens.append((nodes[:, None] * geometry.span(level) + places).flatten())
        self._kept = kept
        entry = np.searchsorted(tiling.start, np.concatenate(tokens), side="right") - 1
        return ChildKeys(torch.cat(keys)[None], torch.from_numpy(entry)[None].to(x.device))

    def _keys(self, level: int, nodes: np.ndarray) -> Tensor:
        """Keys of the children of these nodes of a level: [n,C,H·E]."""
        if level not in self._kept:
            return self._encoded(level, nodes)
        kept, keys = self._kept[level]
        place = np.searchsorted(kept, nodes).clip(max=len(kept) - 1)
        known = kept[place] == nodes
        out = keys[torch.from_numpy(place).to(keys.device)]
        if not known.all():
            out[torch.from_numpy(np.flatnonzero(~known)).to(keys.device)] = self._encoded(level, nodes[~known])
        return out

    def _encoded(self, level: int, nodes: np.ndarray) -> Tensor:
        K = self._tree.spec.geometry.block_size
        if level == 1:
            spans = [(int(run[0]) * K, (int(run[-1]) + 1) * K) for run in _runs(nodes)]
            x = torch.cat([embed(self._model, self._tree, begin, self._tree.tokens(begin, end)).x for begin, end in spans])
        else:
            children = (nodes[:, None] * K + np.arange(K)).flatten()
            x = self._tree.gists(level - 1, torch.from_numpy(children)).to(self._model.wte.weight.device).flatten(0, 1)
        return self._matching.keys(x).unflatten(0, (len(nodes), -1))


def _runs(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Splits ascending numbers into runs of consecutive ones."""
    yield from np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
