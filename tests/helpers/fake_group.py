"""Fake process group: this process is the first of `world_size`, and what it would exchange is recorded, not moved."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from torch import Tensor

from nanochat.train import gradient_exchange, optim


class FakeGroup:
    """In the place of `torch.distributed`; `moved` has the name and the bytes of the whole tensor of each collective."""

    ReduceOp, Work = dist.ReduceOp, dist.Work

    def __init__(self, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Takes the place until the end of the test."""
        for module in (optim, gradient_exchange):
            monkeypatch.setattr(module, "dist", self)
        self.world_size = world_size
        self.moved: list[tuple[str, int]] = []

    def is_initialized(self) -> bool:
        return True

    def get_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return self.world_size

    def all_reduce(self, tensor: Tensor, op: object = None, async_op: bool = False) -> Done:
        return self._moved("all_reduce", tensor)

    def reduce(self, tensor: Tensor, dst: int, op: object = None, async_op: bool = False) -> Done:
        return self._moved("reduce", tensor)

    def broadcast(self, tensor: Tensor, src: int, async_op: bool = False) -> Done:
        return self._moved("broadcast", tensor)

    def reduce_scatter_tensor(self, mine: Tensor, total: Tensor, op: object = None, async_op: bool = False) -> Done:
        mine.zero_()
        return self._moved("reduce_scatter", total)

    def all_gather_into_tensor(self, everything: Tensor, mine: Tensor, async_op: bool = False) -> Done:
        everything.copy_(mine.repeat(self.world_size, *[1] * (mine.ndim - 1)))
        return self._moved("all_gather", everything)

    def _moved(self, name: str, whole: Tensor) -> Done:
        self.moved.append((name, whole.nbytes))
        return Done()


class Done:
    """Operation that has ended."""

    def wait(self) -> None:
        pass
