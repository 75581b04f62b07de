"""Shards: which process owns which part of the parameters, and how gradients and new parameters reach it and leave it.

The owner's parameters are exact. The others may get them in the dtype that the model reads, and then have values for the model only.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from nanochat.train.gradient_exchange import Bucket, Pending, gather_parts, reduce_parts, reduce_to, reduce_to_all, spread

Named = list[tuple[str, nn.Parameter]]
ROW_SHARD_MIN = 1 << 16  # tables below this many elements belong to every process


class MatrixShard:
    """Matrices of one shape, a slice of them for each process, for the last ones perhaps none.

    `grad` is of those `owned`, once it is reduced.
    """

    def __init__(self, named: Named, rank: int, world: int) -> None:
        self.named, self.rank, self.split = named, rank, world > 1
        share = math.ceil(len(named) / world)
        self.slices = [named[first : first + share] for first in range(0, len(named), share)]  # by rank
        self.owned = self.slices[rank] if rank < len(self.slices) else []
        self._shape, self._device = named[0][1].shape, named[0][1].device
        self.grad = self.empty(0)
        self._coming: list[tuple[Tensor, Pending]] = []  # new parameters by rank

    def buckets(self) -> list[Bucket]:
        """One for each process that owns something."""
        return [Bucket([p for _, p in part], partial(self._reduce, rank)) for rank, part in enumerate(self.slices)]

    def begin_gather(self, dtype: torch.dtype) -> None:
        """Begins to send the owned matrices to the others, and to receive theirs."""
        if not self.split:
            return
        for rank, part in enumerate(self.slices):
            stack = torch.stack([p.data for _, p in part]).to(dtype) if rank == self.rank else self.empty(len(part), dtype)
            self._coming.append((stack, spread(rank, stack)))

    def end_gather(self) -> None:
        """Waits for the others' matrices."""
        for rank, (stack, pending) in enumerate(self._coming):
            pending.wait()
            if rank != self.rank:
                torch._foreach_copy_([p.data for _, p in self.slices[rank]], list(stack.unbind()))
        self._coming = []

    def _reduce(self, rank: int) -> Pending | None:
        total = torch.stack([_taken(name, p) for name, p in self.slices[rank]])
        if rank == self.rank:
            self.grad = total
        return reduce_to(rank, total) if self.split else None

    def empty(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for `count` matrices."""
        return torch.empty(count, *self._shape, dtype=dtype, device=self._device)


class RowShard:
    """Parameter of which each process owns a part of the rows, if it is large and divides evenly, and else the whole.

    `mine` is the owned part, `grad` its gradient.
    """

    def __init__(self, name: str, param: nn.Parameter, rank: int, world: int) -> None:
        self.name, self.param, self.world = name, param, world
        self.split = splits(param, world)
        self.rows = param.shape[0] // world if self.split else 0
        self.first = rank * self.rows
        self.mine = self.part_of(param.data)
        self.grad: Tensor | None = None
        self._coming: tuple[Tensor, Pending] | None = None  # the new table

    def part_of(self, whole: Tensor) -> Tensor:
        """The owned part of a tensor of the parameter's shape."""
        return whole[self.first : self.first + self.rows] if self.split else whole

    def buckets(self) -> list[Bucket]:
        """The parameter alone."""
        return [Bucket([self.param], self._reduce)]

    def begin_gather(self, dtype: torch.dtype) -> None:
        """Begins to send the owned rows to the others, and to receive theirs."""
        if self.split:
            everything = torch.empty_like(self.param, dtype=dtype)
            self._coming = everything, gather_parts(everything, self.mine.to(dtype, copy=True))

    def end_gather(self) -> None:
        """Waits for the others' rows."""
        if self._coming is not None:
            everything, pending = self._coming
            pending.wait()
            for others in (slice(self.first), slice(self.first + self.rows, None)):
                self.param.data[others].copy_(everything[others])
            self._coming = None
        torch.autograd.graph.increment_version(self.param)  # `.data` hides the change from who keeps a cast copy

    def _reduce(self) -> Pending | None:
        total = _taken(self.name, self.param)
        if self.split:
            self.grad = torch.empty_like(self.mine)
            return reduce_parts(total, self.grad)
        self.grad = total
        return reduce_to_all(total) if self.world > 1 else None


def splits(param: Tensor, world: int) -> bool:
    """Whether each of `world` processes owns a part of the rows of `param`, a table."""
    return world > 1 and param.numel() >= ROW_SHARD_MIN and param.shape[0] % world == 0


def _taken(name: str, param: nn.Parameter) -> Tensor:
    """The gradient of `param`, which is cleared."""
    assert param.grad is not None, f"{name} got no gradient"
    grad, param.grad = param.grad, None
    return grad
