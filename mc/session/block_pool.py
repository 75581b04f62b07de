"""Block pool: keys, values and biases of nodes one level below them, of which the least recently used are dropped.

Shapes: `L` layers, `G` key heads, `C` entries below a node, `E` head size, `N` nodes, `P` places.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Node = tuple[int, int]  # level and number


class Below(NamedTuple):
    """Keys and values [L,G,N,C,E], and biases [L,G,N,C], of what is below nodes."""

    keys: Tensor
    values: Tensor
    bias: Tensor


class BlockPool:
    """Pool of up to `most` nodes, which grows as needed."""

    def __init__(self, most: int, like: Below) -> None:
        """`like` are of no nodes, and have the shape and type of what is kept."""
        self._most, self._below = most, like
        self._places: OrderedDict[Node, int] = OrderedDict()  # the least recently used first

    def __contains__(self, node: Node) -> bool:
        return node in self._places

    def get(self, nodes: Sequence[Node]) -> Below:
        """What is below nodes that are there, which are the most recently used ones then."""
        for node in nodes:
            self._places.move_to_end(node)
        index = self._index(nodes)
        return Below(*(part.index_select(2, index) for part in self._below))

    def put(self, nodes: Sequence[Node], below: Below) -> None:
        """Keeps what is below nodes, as far as there is room for the last ones."""
        nodes, below = nodes[-self._most :], Below(*(part[:, :, -self._most :] for part in below))
        places = []
        for node in nodes:
            place = self._places.pop(node, None)
            if place is None:
                place = len(self._places) if len(self._places) < self._most else self._places.popitem(last=False)[1]
            self._places[node] = place
            places.append(place)
        self._grow(max(places, default=-1) + 1)
        index = torch.tensor(places, device=below.keys.device)
        for kept, new in zip(self._below, below, strict=True):
            kept.index_copy_(2, index, new.to(kept.dtype))

    def _index(self, nodes: Sequence[Node]) -> Tensor:
        return torch.tensor([self._places[node] for node in nodes], device=self._below.keys.device)

    def _grow(self, places: int) -> None:
        have = self._below.keys.shape[2]
        if places <= have:
            return
        size = min(self._most, max(places, 2 * have, 16))
        grown = [part.new_zeros(*part.shape[:2], size, *part.shape[3:]) for part in self._below]
        for new, old in zip(grown, self._below, strict=True):
            new[:, :, :have] = old
        self._below = Below(*grown)
