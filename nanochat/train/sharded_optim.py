"""Optimizer of a sharded model: owners get whole matrices from the rows of all processes, and send the rows of their updates back.

The state is that of `MuonAdamW`, whose checkpoints it shares: a matrix has one owner, which orthogonalises it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from nanochat.train.gradient_exchange import Bucket, Pending, exchange
from nanochat.train.muon import muon_apply, muon_direction
from nanochat.train.optim import AdamShard, MuonAdamW, MuonStack, ParamGroup
from nanochat.train.sharded_model import is_sharded


class ShardedMuonAdamW(MuonAdamW):
    """`MuonAdamW` of parameters of which some are sharded by rows (see `shard_model`)."""

    def _stack(self, group: ParamGroup, named: list[tuple[str, nn.Parameter]]) -> MuonStack:
        return ShardedMuonStack(self, group, named)

    def _table(self, group: ParamGroup, name: str, param: nn.Parameter) -> AdamShard:
        return (ShardedTable if is_sharded(param) else AdamShard)(self, group, name, param)


class ShardedMuonStack(MuonStack):
    """Matrices of one shape, of each of which this process keeps a part of the rows; `grad` is in the order of the senders."""

    def __init__(self, owner: MuonAdamW, group: ParamGroup, named: list[tuple[str, nn.Parameter]]) -> None:
        super().__init__(owner, group, named)
        height, self._width = named[0][1].shape
        share = -(-height // owner.world)  # as FSDP2 splits rows
        self._heights = [max(0, min(share, height - share * rank)) for rank in range(owner.world)]
        self._counts = [len(part) for part in self.slices] + [0] * (owner.world - len(self.slices))  # matrices by owner
        fuse: Callable = partial(torch.compile, dynamic=False) if owner.compiled else lambda function: function
        self._direction, self._apply = fuse(muon_direction), fuse(muon_apply)
        self._pending: Pending | None = None
        self._update = self.empty(0)  # of the owned matrices, in the order of the receivers, then of all matrices' rows here
        self._with_update: Callable[..., Tensor] | None = None  # new parameters from old ones and an update

    @property
    def _by_owner(self) -> list[int]:
        """Numbers in this process's rows of each owner's matrices."""
        return [count * self._heights[self.rank] * self._width for count in self._counts]

    @property
    def _by_rank(self) -> list[int]:
        """Numbers in each process's rows of the owned matrices."""
        return [len(self.owned) * height * self._width for height in self._heights]

    def buckets(self) -> list[Bucket]:
        """All matrices: their rows are reduced, and go to the owners."""
        return [Bucket([p for _, p in self.named], self._collect)]

    def _collect(self) -> Pending:
        rows = torch.cat([_taken(name, p).flatten() for name, p in self.named])
        self.grad = rows.new_empty(sum(self._by_rank))
        return exchange(rows, self._by_owner, self.grad, self._by_rank)

    def update(self, lr: float, momentum: float | None, weight_decay: float, keep: Tensor | None) -> None:
        group, number = self.group, self.owner.number
        keep = self.one if keep is None else keep
        m, n = self.named[0][1].shape
        self._with_update = partial(
            self._apply, keep=keep, lr=number(group.lr * lr * max(1.0, m / n) ** 0.5),
            weight_decay=number(group.weight_decay * weight_decay), decay_lr=number(group.lr * lr), extras=group.extras,
        )  # fmt: skip
        if self.owned:
            parts = zip(self.grad.split(self._by_rank), self._heights, strict=True)
            grads = torch.cat([part.view(len(self.owned), height, n) for part, height in parts], dim=1)
            mu = number(group.momentum if momentum is None else momentum)
            update = self._direction(grads, self.momentum, self.second_moment, keep, mu=mu, dtype=self.owner.dtype, extras=group.extras)
            self._update = torch.cat([rows.flatten() for rows in update.split(self._heights, dim=1)])
        self.grad = self.empty(0)

    def begin_gather(self, dtype: torch.dtype) -> None:
        """Begins to send the rows of the owned updates, and to receive those of the others'. Parameters do not travel."""
        if self._with_update is not None:
            received = self._update.new_empty(sum(self._by_owner))
            self._pending = exchange(self._update.flatten(), self._by_rank, received, self._by_owner)
            self._update = received

    def end_gather(self) -> None:
        """Applies the updates to this process's rows."""
        if self._with_update is not None:
            self._pending.wait()
            local = [p.to_local() for _, p in self.named]
            new = self._with_update(torch.stack(local), self._update.view(len(local), -1, self._width))
            torch._foreach_copy_(local, list(new.unbind()))
            self._pending = self._with_update = None
            self._update = self.empty(0)


class ShardedTable(AdamShard):
    """Table of which this process keeps the rows that it owns."""

    def part_of(self, whole: Tensor) -> Tensor:
        """See `RowShard`."""
        return whole.to_local() if is_sharded(whole) else super().part_of(whole)

    def buckets(self) -> list[Bucket]:
        """The table alone, whose gradient is reduced."""
        return [Bucket([self.param], self._take)]

    def _take(self) -> None:
        self.grad = _taken(self.name, self.param)

    def begin_gather(self, dtype: torch.dtype) -> None:
        """Nothing travels: the model gathers what it reads."""


def _taken(name: str, param: nn.Parameter) -> Tensor:
    """This process's rows of the gradient of `param`, which is cleared."""
    assert param.grad is not None, f"{name} got no gradient"
    grad, param.grad = param.grad.to_local(), None
    return grad
