"""As many variants as the wanted speed leaves time for."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

SMOOTHING = 0.9  # of the measured speed
PATIENCE = 8  # micro-batches between changes: the first of a new shape may be compiled
SLACK = 1.1  # a variant is added where the speed is this much above the wanted one


class Pace:
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
