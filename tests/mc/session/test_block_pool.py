"""Blocks that were used last are kept, the others dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from mc.session.block_pool import BlockPool

L, G, K, E = 2, 3, 4, 5


def parts(numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Keys and values of blocks, all of whose numbers are that of the block, or its negative."""
    keys = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(L, G, len(numbers), K, E)
    return keys, -keys


def test_the_least_recently_used_are_dropped() -> None:
    pool = BlockPool(40, parts([])[0])
    pool.put(range(30), *parts([*range(30)]))
    pool.put([3, 30], *parts([300, 30]))  # 3 anew
    pool.get([0])
    pool.get([1])
    pool.put(range(31, 50), *parts([*range(31, 50)]))
    kept = [block for block in range(50) if block in pool]
    assert kept == [0, 1, 3, *range(13, 50)]
    values = [300 if block == 3 else block for block in kept]
    for got, expected in zip(pool.get(kept), parts(values), strict=True):
        assert torch.equal(got, expected)


def test_more_than_it_holds_leaves_the_last() -> None:
    pool = BlockPool(3, parts([])[0])
    pool.put(range(10), *parts([*range(10)]))
    assert [block for block in range(10) if block in pool] == [7, 8, 9]
    assert torch.equal(pool.get([9, 7])[0], parts([9, 7])[0])
