"""Block pool: keys and values of blocks of tokens, of which the least recently used are dropped.

Shapes: `L` layers, `G` key heads, `N` blocks, `K` block size, `E` head size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor


class BlockPool:
    """Pool of up to `most` blocks by their numbers, which grows as needed."""

    def __init__(self, most: int, like: Tensor) -> None:
        """`like` [L,G,0,K,E] has the type of what is kept."""
        self._most, self._kept = most, [like, like.clone()]  # keys and values
        self._places: OrderedDict[int, int] = OrderedDict()  # the least recently used first

    def __contains__(self, block: int) -> bool:
        return block in self._places

    def get(self, blocks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values [L,G,N,K,E] of blocks that are there, which are the most recently used ones then."""
        for block in blocks:
            self._places.move_to_end(block)
        index = torch.tensor([self._places[block] for block in blocks], device=self._kept[0].device)
        keys, values = (part.index_select(2, index) for part in self._kept)
        return keys, values

    def put(self, blocks: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Keeps keys and values [L,G,N,K,E] of blocks, as far as there is room for the last ones."""
        blocks = blocks[-self._most :]
        places = []
        for block in blocks:
            place = self._places.pop(block, None)
            if place is None:
                place = len(self._places) if len(self._places) < self._most else self._places.popitem(last=False)[1]
            self._places[block] = place
            places.append(place)
        self._grow(max(places, default=-1) + 1)
        index = torch.tensor(places, device=keys.device)
        for kept, new in zip(self._kept, (keys, values), strict=True):
            kept.index_copy_(2, index, new[:, :, -self._most :].to(kept.dtype))

    def _grow(self, places: int) -> None:
        have = self._kept[0].shape[2]
        if places <= have:
            return
        size = min(self._most, max(places, 2 * have, 16))
        grown = [part.new_zeros(*part.shape[:2], size, *part.shape[3:]) for part in self._kept]
        for new, old in zip(grown, self._kept, strict=True):
            new[:, :, :have] = old
        self._kept = grown
