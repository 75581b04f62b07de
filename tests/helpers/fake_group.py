"""Fake process group: this process is the first of `world_size`, and what it would exchange is recorded, not moved."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


class FakeGroup:
    """In the place of `torch.distributed`; `moved` has the name and the bytes of the whole tensor of each collective."""

    ReduceOp = dist.ReduceOp

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.moved: list[tuple[str, int]] = []

    def is_initialized(self) -> bool:
        return True

    def get_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return self.world_size

    def all_reduce(self, tensor: Tensor, op: object = None) -> None:
        self.moved.append(("all_reduce", tensor.nbytes))

    def reduce_scatter_tensor(self, mine: Tensor, total: Tensor, op: object = None) -> None:
        self.moved.append(("reduce_scatter", total.nbytes))
        mine.zero_()

    def all_gather_into_tensor(self, everything: Tensor, mine: Tensor) -> None:
        self.moved.append(("all_gather", everything.nbytes))
        everything.copy_(mine.repeat(self.world_size, *[1] * (mine.ndim - 1)))
