"""Layered gists in a session's tree: packed into one vector per slot, and made for the blocks that new tokens complete.

Shapes: `L` layers, `G` key heads, `E` head size, `K` block size, `S` slots of a node, `n` tokens, `N` nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mc.nets.layered_gists import LayeredEntries, LayeredGistNet, tokens_as_entries
from mc.session.tree import MegaContextTree
from mc.session.tree_builder import all_levels
from nanochat.model.gpt import GPTConfig


class Packing:
    """Layered entries of a model as vectors of `width` numbers: keys, values and biases of all layers."""

    def __init__(self, model: GPTConfig) -> None:
        L, G, E = model.depth, model.key_heads, model.head_dim
        self._shape, self._sizes = (L, G, E), [L * G * E, L * G * E, L * G]
        self.width = sum(self._sizes)

    def packed(self, gists: LayeredEntries, dtype: torch.dtype) -> Tensor:
        """Vectors [N,S,width] of gists [L,N,S,·]."""
        return torch.cat([part.movedim(0, 2).flatten(2).to(dtype) for part in gists], dim=-1)

    def unpacked(self, packed: Tensor, dtype: torch.dtype) -> LayeredEntries:
        """Gists [L,N,S,·] of vectors [N,S,width]; biases are fp32."""
        L, G, E = self._shape
        keys, values, bias = packed.split(self._sizes, dim=-1)
        keys, values = (part.unflatten(-1, (L, G, E)).movedim(2, 0).to(dtype) for part in (keys, values))
        return LayeredEntries(keys, values, bias.unflatten(-1, (L, G)).movedim(2, 0).float())


def append_read(tree: MegaContextTree, gistnet: LayeredGistNet, packing: Packing, tokens: Tensor, keys: Tensor, values: Tensor) -> None:
    """Appends `tokens`, int64 [n], with the gists of all nodes that they complete.

    `keys` and `values` [L,·,G,E] are those of the incomplete block's tokens and of `tokens`, rotated by their positions.
    """
    spec, K = tree.spec, tree.spec.geometry.block_size
    new = (tree.length + len(tokens)) // K - tree.length // K
    first = torch.zeros(0, spec.geometry.slots, spec.width, dtype=spec.dtype)
    if new:
        blocks = tokens_as_entries(*(part[:, : new * K].unflatten(1, (new, K)) for part in (keys, values)))
        start = torch.arange(tree.length // K, tree.length // K + new, device=keys.device) * K
        first = packing.packed(gistnet.of_tokens(blocks, start), spec.dtype)

    def merge(children: Tensor, level: int) -> Tensor:
        return packing.packed(gistnet.of_gists(packing.unpacked(children, keys.dtype), level), spec.dtype)

    gists = all_levels(tree, first, merge)
    tree.append(tokens.cpu(), gists, [gists[level - 1][..., :0] for level in spec.value_levels])
