"""Exchange of gradients and new parameters between processes, in the background of what they compute.

A bucket is reduced in one collective operation, which begins as soon as the backward has completed its gradients. All processes
begin the buckets in one order, that in which rank 0's first backward completed them: operations that do not pair up never end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from nanochat.runtime.lost_peer import LostCollective


class Pending:
    """A collective operation that is under way: `what` is done by `work`."""

    def __init__(self, what: str, work: dist.Work) -> None:
        self._what, self._work = what, work

    def wait(self) -> None:
        """Waits for the end; on a GPU its stream waits, not the caller. Raises `LostCollective` if it fails."""
        try:
            self._work.wait()
        except RuntimeError as error:
            raise LostCollective(self._what, error) from error


class Bucket:
    """Gradients of `params`, reduced in one operation, which `begin` begins."""

    def __init__(self, params: Sequence[nn.Parameter], begin: Callable[[], Pending | None]) -> None:
        self.params, self._begin = params, begin
        self.missing = len(params)  # gradients that the backward has not completed
        self._pending: Pending | None = None

    def begin(self) -> None:
        """Takes the gradients and begins to reduce them."""
        self._pending, self.missing = self._begin(), len(self.params)

    def wait(self) -> None:
        """Waits until they are reduced."""
        if self._pending is not None:
            self._pending.wait()
            self._pending = None


class GradientExchange:
    """Reduction of all `buckets`, which need not be of one dtype or device."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = list(buckets)
        self._alone = not dist.is_initialized()
        self._agreed = self._alone  # whether the order of the buckets is that of rank 0
        self._completed: list[Bucket] = []  # by the last backward, in its order
        self._begun = 0  # buckets
        self._in_last_backward = False
        if not self._alone:
            for bucket in self._buckets:
                for param in bucket.params:
                    param.register_post_accumulate_grad_hook(partial(self._complete, bucket))

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Around the backward that completes the gradients: each bucket begins when it is complete, and all have begun at the end.

        Without other processes there is nothing to begin.
        """
        self._completed, self._in_last_backward = [], True
        try:
            yield
        finally:
            self._in_last_backward = False
        if not self._alone:
            self._begin(len(self._buckets))

    def finish(self) -> None:
        """Begins what has not begun, and waits for all buckets."""
        self._begin(len(self._buckets))
        for bucket in self._buckets:
            bucket.wait()
        self._begun = 0
        if not self._agreed and self._completed:
            self._agree()

    def _complete(self, bucket: Bucket, param: nn.Parameter) -> None:
        """Hook: the gradient of `param`, in `bucket`, has been accumulated."""
        if not self._in_last_backward:
            return
        bucket.missing -= 1
        if bucket.missing:
            return
        self._completed.append(bucket)
        if self._agreed:
            ready = self._begun
            while ready < len(self._buckets) and not self._buckets[ready].missing:
                ready += 1
            self._begin(ready)

    def _begin(self, end: int) -> None:
        """Begins the buckets up to the one before number `end`."""
        for bucket in self._buckets[self._begun : end]:
            bucket.begin()
        self._begun = max(self._begun, end)

    def _agree(self) -> None:
        """Takes the order in which rank 0's backward completed the buckets."""
        numbers = {bucket: number for number, bucket in enumerate(self._buckets)}
        order = [numbers[bucket] for bucket in dict.fromkeys([*self._completed, *self._buckets])]
        told = torch.tensor(order, device=self._buckets[0].params[0].device)
        dist.broadcast(told, src=0)
        self._buckets = [self._buckets[number] for number in told.tolist()]
        self._agreed = True


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def reduce_to(owner: int, total: Tensor) -> Pending:
    """Begins to sum `total` over the processes, in place in the process `owner`; in the others it is undefined afterwards."""
    return Pending("reduce", dist.reduce(total, dst=owner, op=dist.ReduceOp.SUM, async_op=True))


def reduce_to_all(total: Tensor) -> Pending:
    """Begins to sum `total` over the processes, in place."""
    return Pending("all_reduce", dist.all_reduce(total, op=dist.ReduceOp.SUM, async_op=True))


def reduce_parts(total: Tensor, mine: Tensor) -> Pending:
    """Begins to sum `total` over the processes; `mine` receives this process's equal part of the rows."""
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # the name before torch 2.13
    return Pending("reduce_scatter", reduce_scatter(mine, total, op=dist.ReduceOp.SUM, async_op=True))


def gather_parts(everything: Tensor, mine: Tensor) -> Pending:
    """Begins to gather `mine`, an equal part of the rows, of all processes, in their order, into `everything`."""
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name before torch 2.13
    return Pending("all_gather", all_gather(everything, mine, async_op=True))


def exchange(sent: Tensor, sent_sizes: list[int], received: Tensor, received_sizes: list[int]) -> Pending:
    """Begins to send parts of `sent`, flat, to the processes in their order, and to receive theirs; sizes are those of the parts."""
    return Pending("all_to_all", dist.all_to_all_single(received, sent, received_sizes, sent_sizes, async_op=True))


def spread(owner: int, part: Tensor) -> Pending:
    """Begins to copy `part` of the process `owner` into that of the others."""
    return Pending("broadcast", dist.broadcast(part, src=owner, async_op=True))
