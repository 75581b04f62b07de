"""Muon on matrices of which every process has some rows: three processes, played one after the other, make the update of one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nanochat.train import sharded_optim
from nanochat.train.muon import muon_update, second_moment_shape
from nanochat.train.optim import ParamGroup
from nanochat.train.sharded_optim import ShardedMuonStack

WORLD = 3


class Part:
    """A matrix of which this process has the `rows`: what the optimizer asks of a `DTensor`."""

    def __init__(self, whole: Tensor, rows: slice) -> None:
        self.shape, self.device, self._local = whole.shape, whole.device, whole[rows].clone()
        self.grad: Part | None = None

    def to_local(self) -> Tensor:
        return self._local


@dataclass
class Owner:
    """The optimizer, as its units see it."""

    rank: int
    world: int = WORLD
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def number(self, value: float) -> float:
        return value


class Exchange:
    """All-to-all of processes that call it one after the other; `go` does it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, list[int], Tensor, list[int]]] = []

    def __call__(self, *call) -> Exchange:
        self.calls.append(call)
        return self

    def go(self) -> None:
        for me, (_, _, received, sizes) in enumerate(self.calls):
            parts = [sent.split(sent_sizes)[me] for sent, sent_sizes, _, _ in self.calls]
            assert [len(part) for part in parts] == sizes
            received.copy_(torch.cat(parts))
        self.calls = []

    def wait(self) -> None:
        assert not self.calls


# Rows that do not divide, a process without rows, processes without matrices.
@pytest.mark.parametrize(("count", "m", "n"), [(4, 16, 8), (7, 8, 20), (2, 5, 5), (1, 2, 9)])
def test_three_processes_make_the_update_of_one(count: int, m: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_optim, "exchange", exchange := Exchange())
    generator = torch.Generator().manual_seed(0)
    params, grads = (torch.randn(count, m, n, generator=generator) for _ in range(2))
    share = -(-m // WORLD)
    group = ParamGroup("muon", [], lr=0.1, weight_decay=0.2)
    parts, stacks = [], []
    for rank in range(WORLD):
        rows = slice(rank * share, (rank + 1) * share)
        parts.append([Part(p, rows) for p in params])
        for part, grad in zip(parts[-1], grads, strict=True):
            part.grad = Part(grad, rows)
        stacks.append(ShardedMuonStack(Owner(rank), group, [(f"m{i}", p) for i, p in enumerate(parts[-1])]))
    for stack in stacks:
        stack.buckets()[0].begin()
    exchange.go()
    assert sum(stack.grad.square().sum() for stack in stacks) == pytest.approx(grads.square().sum().item(), rel=1e-5)
    for stack in stacks:
        stack.update(0.5, 0.9, 1.0, None)
        stack.begin_gather(torch.float32)
    exchange.go()
    for stack in stacks:
        stack.end_gather()
    momentum, squares = torch.zeros_like(params), torch.zeros(second_moment_shape(params.shape))
    numbers = {"lr": 0.1 * 0.5 * max(1.0, m / n) ** 0.5, "mu": 0.9, "weight_decay": 0.2, "decay_lr": 0.1 * 0.5}
    expected = muon_update(params, grads, momentum, squares, torch.ones(()), **numbers, dtype=torch.float32, extras=group.extras)
    got = torch.stack([torch.cat([rank[i].to_local() for rank in parts]) for i in range(count)])
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.cat([stack.momentum for stack in stacks]), momentum)
    assert all(part.grad is None for rank in parts for part in rank)
