"""Sampler of variants, which prepares the next micro-batch in a thread, and a throttle on their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mc.layout.compression import Compression, sample_distinct
from mc.layout.layout import Layout, entry_ends, from_levels
from mc.nets.gist_bank import bank_index
from mc.row_plan import RowPlan

SMOOTHING = 0.9  # EMA decay of the measured throughput
PATIENCE = 8  # micro-batches between changes: the first of a new shape may be compiled
SLACK = 1.1  # a variant is added if the throughput is this factor above the target
LEVELS_SEED = 1_000  # between the seed of the numbers of nodes and that of their places


class Variants(NamedTuple):
    """Layouts of equal width of B rows, V of each; variant v of row b is at v·B + b wherever they are stacked."""

    compression: Compression
    levels: Tensor  # int64 [V,B,F]
    layout: Layout  # [V·B, W]
    index: Tensor  # int64 [V·B, W], of each entry in the bank of its row
    predicts: Tensor  # int64 [V·B, W], of each entry's target in the targets of its row

    def each(self, change: Callable[[Tensor], Tensor]) -> Variants:
        """Applies `change` to every tensor."""
        levels, lod, start, index, predicts = map(change, (self.levels, *self.layout, self.index, self.predicts))
        return Variants(self.compression, levels, Layout(lod, start), index, predicts)

    def to(self, device: torch.device) -> Variants:
        """Copies to `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Variants:
        """Copies to pinned memory, from which a GPU copies while it computes."""
        return self.each(Tensor.pin_memory)

    def some(self, first: int, count: int) -> tuple[Variants, Tensor]:
        """Selects `count` variants of each row from number `first` on, cyclically; also their stack index, int64 [count·B]."""
        V, B, _ = self.levels.shape
        device = self.levels.device
        chosen = (torch.arange(count, device=device) + first) % V
        rows = (chosen[:, None] * B + torch.arange(B, device=device)).flatten()
        layout = Layout(*(t[rows] for t in self.layout))
        return Variants(self.compression, self.levels[chosen], layout, self.index[rows], self.predicts[rows]), rows


def lay_out(plan: RowPlan, compression: Compression, levels: Tensor) -> Variants:
    """Builds the variants with `levels` [V,B,F], all of `compression`."""
    layout = from_levels(levels.flatten(0, 1), plan.length, compression.width, plan.config.geometry)
    return Variants(compression, levels, layout, bank_index(layout, plan.shape), entry_ends(layout, plan.config.geometry) - 1)


class Request(NamedTuple):
    """Request for the variants of a micro-batch: all that they depend on besides the seed."""

    draw: int  # number of the micro-batch in the run
    per_row: int
    rows: int
    width: int


class Sampler:
    """Sampler of random variants: a pure function of seed and request, so that a resumed run and any number of processes get the same.

    A thread prepares the request that the caller expects next; another request is sampled in the call.
    """

    def __init__(self, plan: RowPlan, seed: int, pin: bool) -> None:
        self.plan, self.seed, self.pin = plan, seed, pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="variants")
        self._ahead: tuple[Request, Future[Variants]] | None = None
        self.newest: Variants | None = None  # result of the last call, on the CPU

    def __call__(self, request: Request, following: Request, device: torch.device) -> Variants:
        """Returns the variants of `request` on `device` and starts sampling those of `following`."""
        ready = self._ahead is not None and self._ahead[0] == request
        self.newest = self._ahead[1].result() if ready else self.sample(request)
        self._ahead = (following, self._thread.submit(self.sample, following))
        return self.newest.to(device)

    def sample(self, request: Request) -> Variants:
        """Samples the variants of `request` on the CPU."""
        compression = self.plan.compression(request.width, self._higher(request.width, _generator(self.seed, request.draw)))
        levels = sample_distinct(compression, request.rows, request.per_row, self.generator(request.draw))
        variants = lay_out(self.plan, compression, levels)
        return variants.pinned() if self.pin else variants

    def generator(self, draw: int) -> torch.Generator:
        """Random generator for the levels of a micro-batch."""
        return _generator(self.seed + LEVELS_SEED, draw)

    def _higher(self, width: int, generator: torch.Generator) -> tuple[int, ...]:
        """Draws the number of nodes of each level from 2 up: every group of blocks that fits becomes one with the configured probability.

        A node fits if it leaves a variant at least `width` entries.
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
    """Adapts the number of variants, 1 to `most`, to a target throughput in tokens/s; a `target` of 0 keeps `most`.

    Call `saw(tokens)` once per micro-batch. The slowest process counts, and all processes have equally many variants. Runs that
    adapt are not reproducible, because the clock is not.
    """

    def __init__(self, target: float, most: int, device: torch.device) -> None:
        self.target, self.most, self.variants, self.device = target, most, most, device
        self.restart()

    def restart(self) -> None:
        """Forgets the measurements, after a pause."""
        self._speed: float | None = None
        self._before: float | None = None
        self._patience = PATIENCE

    def saw(self, tokens: int) -> None:
        """Records that a micro-batch of `tokens` row tokens begins."""
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
