"""Metrics of all processes: means over the micro-batches of a step, and the slowest process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from nanochat.runtime.peers import gather_json
from nanochat.train.objective import Metrics


def mean_metrics(metrics: Sequence[Metrics], device: torch.device) -> dict[str, float]:
    """Mean of each metric over the micro-batches, of all processes, that have it and not as NaN; without any it is left out.

    A collective call: all processes must make it, but each may have metrics that others lack.
    """
    mine = {name for of_one in metrics for name in of_one}
    names = sorted(set().union(*gather_json(sorted(mine))))
    if not names:
        return {}
    dtype = torch.float32 if device.type == "mps" else torch.float64  # counts pass 2^24
    nothing = torch.full((), torch.nan, dtype=dtype, device=device)
    values = [[torch.as_tensor(of_one[n], dtype=dtype, device=device) if n in of_one else nothing for n in names] for of_one in metrics]
    table = torch.stack([torch.stack(row) for row in values])  # (micro-batches, names)
    sums = torch.stack([table.nansum(0), (~table.isnan()).sum(0)])
    if dist.is_initialized():
        dist.all_reduce(sums)
    return {name: total / count for name, total, count in zip(names, *sums.tolist(), strict=True) if count}


def slowest(milliseconds: float) -> dict[str, float]:
    """Metrics: the rank that takes the most `milliseconds`, and these; none without other processes. A collective call."""
    times = gather_json(milliseconds)
    if len(times) == 1:
        return {}
    most = max(times)
    return {"train/slowest_rank": times.index(most), "train/slowest_rank_ms": most}
