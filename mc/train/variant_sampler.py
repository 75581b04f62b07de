"""The variants of a micro-batch, and those of the next one while this one computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mc.config import RowPlan
from mc.layout.compression import Compression, sample_distinct
from mc.layout.layout import Layout, entry_ends, from_levels
from mc.nets.gist_bank import bank_index

SMOOTHING = 0.9  # of the measured speed
PATIENCE = 8  # micro-batches between changes: the first of a new shape may be compiled
SLACK = 1.1  # a variant is added where the speed is this much above the wanted one


class Variants(NamedTuple):
    """Layouts of equal width of B rows, V of each; variant v of row b is at v·B + b wherever they are stacked."""

    compression: Compression
    levels: Tensor  # int64 [V,B,F]
    layout: Layout  # [V·B, W]
    index: Tensor  # int64 [V·B, W], where an entry lies in the bank of its row
    predicts: Tensor  # int64 [V·B, W], where an entry's target lies in the targets of its row

    def each(self, change: Callable[[Tensor], Tensor]) -> Variants:
        """The same with every tensor changed."""
        levels, lod, start, index, predicts = map(change, (self.levels, *self.layout, self.index, self.predicts))
        return Variants(self.compression, levels, Layout(lod, start), index, predicts)

    def to(self, device: torch.device) -> Variants:
        """The same on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Variants:
        """The same in memory that a GPU can copy from while it computes."""
        return self.each(Tensor.pin_memory)

    def some(self, first: int, count: int) -> tuple[Variants, Tensor]:
        """`count` variants of each row from number `first` on, in a ring, and where they are stacked: int64 [count·B]."""
        V, B, _ = self.levels.shape
        device = self.levels.device
        chosen = (torch.arange(count, device=device) + first) % V
        rows = (chosen[:, None] * B + torch.arange(B, device=device)).flatten()
        layout = Layout(*(t[rows] for t in self.layout))
        return Variants(self.compression, self.levels[chosen], layout, self.index[rows], self.predicts[rows]), rows


def lay_out(plan: RowPlan, compression: Compression, levels: Tensor) -> Variants:
    """The variants that `levels` [V,B,F] describe, all of `compression`."""
    layout = from_levels(levels.flatten(0, 1), plan.length, compression.width, plan.config.geometry)
    return Variants(compression, levels, layout, bank_index(layout, plan.shape), entry_ends(layout, plan.config.geometry) - 1)


class Request(NamedTuple):
    """What the variants of a micro-batch are a function of, beside the seed."""

    draw: int  # number of the micro-batch
    per_row: int
    rows: int
    width: int


RANK_SEEDS = 1_000  # between the seeds of two processes


class Sampler:
    """Random variants, a pure function of seed, process and request, so that a resumed run sees the same.

    How many there are and how wide is the same in all processes, so that none waits for another; which blocks they compress
    is each process's own. A thread prepares what the caller expects to request next; where that is not what it then requests,
    the call makes its own.
    """

    def __init__(self, plan: RowPlan, seed: int, pin: bool, rank: int = 0) -> None:
        self.plan, self.seed, self.pin, self.rank = plan, seed, pin, rank
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="variants")
        self._ahead: tuple[Request, Future[Variants]] | None = None
        self.newest: Variants | None = None  # what the last call returned, on the CPU

    def __call__(self, request: Request, following: Request, device: torch.device) -> Variants:
        """The variants of `request` on `device`; those of `following` are then under way."""
        ready = self._ahead is not None and self._ahead[0] == request
        self.newest = self._ahead[1].result() if ready else self.sample(request)
        self._ahead = (following, self._thread.submit(self.sample, following))
        return self.newest.to(device)

    def sample(self, request: Request) -> Variants:
        """The variants of `request`, on the CPU."""
        compression = self.plan.compression(request.width, self._higher(request.width, _generator(self.seed, request.draw)))
        levels = sample_distinct(compression, request.rows, request.per_row, self.generator(request.draw))
        variants = lay_out(self.plan, compression, levels)
        return variants.pinned() if self.pin else variants

    def generator(self, draw: int) -> torch.Generator:
        """The random numbers of this process for a micro-batch."""
        return _generator(self.seed + RANK_SEEDS * (1 + self.rank), draw)

    def _higher(self, width: int, generator: torch.Generator) -> tuple[int, ...]:
        """How many nodes of the levels from 2 up there are: each group that could be one is, with the configured probability.

        A node fits as long as it leaves a variant at least `width` entries.
        """
        geometry, free, spare, counts = self.plan.config.geometry, self.plan.blocks, self.plan.length - width, []
        for level in range(self.plan.max_lod, 1, -1):
            group, saved = geometry.span(level - 1), geometry.span(level) - geometry.size(level)
            fitting = max(0, min(free // group, spare // saved))
            chosen = torch.rand(fitting, generator=generator) < self.plan.config.mc_training_lod2_probability
            counts.append(int(chosen.sum()))
            free, spare = free - counts[-1] * group, spare - counts[-1] * saved
        return tuple(reversed(counts))


def _generator(seed: int, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + draw)


class VariantThrottle:
    """Between 1 and `most` variants, by the clock: `saw(tokens)` once a micro-batch. A `target` of 0 (tokens/s) keeps `most`.

    Speeds are those of the slowest process, and all processes have equally many variants. Runs that adapt are not
    reproducible, as the clock is not.
    """

    def __init__(self, target: float, most: int, device: torch.device) -> None:
        self.target, self.most, self.variants, self.device = target, most, most, device
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured: what comes next did not follow at once."""
        self._speed: float | None = None
        self._before: float | None = None
        self._patience = PATIENCE

    def saw(self, tokens: int) -> None:
        """Counts a micro-batch of `tokens` row tokens as begun."""
        if not self.target:
            return
        now, before = time.perf_counter(), self._before
        self._before = now
        if before is None:
            return
        speed = tokens / (now - before)
        self._speed = speed if self._speed is None else SMOOTHING * self._speed + (1 - SMOOTHING) * speed
        self._patience -= 1
        if self._patience > 0:
            return
        self._patience, speed = PATIENCE, self._slowest(self._speed)
        change = -1 if speed < self.target else 1 if speed > SLACK * self.target else 0
        wanted = min(max(self.variants + change, 1), self.most)
        if wanted != self.variants:
            self.variants, self._speed = wanted, None

    def _slowest(self, speed: float) -> float:
        if not dist.is_initialized():
            return speed
        slowest = torch.tensor(speed, device=self.device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MIN)
        return slowest.item()
