"""Batches: a process's share of the rows of a step."""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat.data.rows import Loader, count_targets
from nanochat.runtime.device import Runtime


class Batch(NamedTuple):
    """A process's rows of one step: `R` of them."""

    rows: Tensor  # int64 [R,T+1]
    weights: Tensor | None  # fp32 [R]: multiply the losses of the rows
    loss_divisors: list[float]  # per micro-batch: targets of the step / (targets in the micro-batch × processes)
    data_hash: int  # CRC-32 of all rows of the step


def read_batch(loader: Loader, runtime: Runtime, step: int, rows_per_step: int, micro_batches: int) -> Batch:
    """Reads a step's rows and takes this process's, for `micro_batches` of equal size."""
    first = step * rows_per_step
    rows = loader.rows(first, first + rows_per_step)
    weights = loader.weights(first, first + rows_per_step)
    share, world = rows_per_step // runtime.world_size, runtime.world_size
    mine = slice(runtime.rank * share, (runtime.rank + 1) * share)
    counts = count_targets(rows)
    targets = counts[mine].reshape(micro_batches, -1).sum(1).tolist()
    tensor = torch.from_numpy(rows[mine].astype(np.int64))
    return Batch(
        tensor.pin_memory() if runtime.device.type == "cuda" else tensor,
        None if weights is None else torch.from_numpy(weights[mine]),
        [counts.sum().item() / (count * world) if count else math.inf for count in targets],
        zlib.crc32(rows.tobytes()),
    )
