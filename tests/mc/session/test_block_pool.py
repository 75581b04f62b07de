"""Blocks that were used last are kept, the others dropped."""

from __future__ import annotations

import torch

from mc.session.block_pool import Below, BlockPool

L, G, C, E = 2, 3, 4, 5


def below(numbers: list[int]) -> Below:
    """What is below nodes, all of whose numbers are that of the node."""
    keys = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(L, G, len(numbers), C, E)
    return Below(keys, -keys, 2 * keys[..., 0])


def names(numbers: list[int]) -> list[tuple[int, int]]:
    return [(1, number) for number in numbers]


def test_the_least_recently_used_are_dropped() -> None:
    pool = BlockPool(40, below([]))
    pool.put(names([*range(30)]), below([*range(30)]))
    pool.put(names([3, 30]), below([300, 30]))  # 3 anew
    pool.get(names([0]))
    pool.get(names([1]))
    pool.put(names([*range(31, 50)]), below([*range(31, 50)]))
    kept = [number for number in range(50) if (1, number) in pool]
    assert kept == [0, 1, 3, *range(13, 50)] and (2, 0) not in pool
    values = [300 if number == 3 else number for number in kept]
    for got, expected in zip(pool.get(names(kept)), below(values), strict=True):
        assert torch.equal(got, expected)


def test_more_than_it_holds_leaves_the_last() -> None:
    pool = BlockPool(3, below([]))
    pool.put(names([*range(10)]), below([*range(10)]))
    assert [number for number in range(10) if (1, number) in pool] == [7, 8, 9]
    assert torch.equal(pool.get(names([9, 7])).keys, below([9, 7]).keys)
