"""Who owns what: every matrix and every row once, and nothing is padded."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from nanochat.train.shards import ROW_SHARD_MIN, MatrixShard, RowShard
from tests.helpers.fake_group import FakeGroup


@pytest.mark.parametrize(("count", "world", "shares"), [(5, 4, [2, 2, 1, 0]), (2, 3, [1, 1, 0]), (6, 3, [2, 2, 2]), (7, 1, [7])])
def test_each_matrix_has_one_owner(count: int, world: int, shares: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    group = FakeGroup(world, monkeypatch)
    named = [(str(i), nn.Parameter(torch.full((3, 2), float(i)))) for i in range(count)]
    shards = [MatrixShard(named, rank, world) for rank in range(world)]
    assert [len(shard.owned) for shard in shards] == shares
    assert [name for shard in shards for name, _ in shard.owned] == [name for name, _ in named]
    for rank, shard in enumerate(shards):
        for _, param in named:
            param.grad = 2 * param.detach()
        for bucket in shard.buckets():
            bucket.begin()
            bucket.wait()
        assert all(param.grad is None for _, param in named)
        assert shard.grad.shape == (shares[rank], 3, 2)
        assert shard.grad[:, 0, 0].tolist() == [2 * float(name) for name, _ in shard.owned]
    moved = 0 if world == 1 else world * count * 3 * 2 * 4
    assert sum(size for name, size in group.moved if name == "reduce") == moved


def test_a_matrix_without_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGroup(2, monkeypatch)
    (bucket,) = MatrixShard([("blocks.0.mlp", nn.Parameter(torch.ones(2, 2)))], 1, 2).buckets()
    with pytest.raises(AssertionError, match=r"blocks\.0\.mlp got no gradient"):
        bucket.begin()


@pytest.mark.parametrize(("shape", "world", "rows"), [((ROW_SHARD_MIN // 16, 16), 4, [1024] * 4), ((4097, 16), 4, None), ((8, 4), 4, None)])
def test_large_tables_that_divide_are_split_by_rows(shape: tuple[int, int], world: int, rows: list[int] | None) -> None:
    param = nn.Parameter(torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape))
    parts = [RowShard("table", param, rank, world) for rank in range(world)]
    assert [part.split for part in parts] == [rows is not None] * world
    if rows is None:
        assert all(torch.equal(part.mine, param) for part in parts)
    else:
        assert [len(part.mine) for part in parts] == rows and torch.equal(torch.cat([part.mine for part in parts]), param)
