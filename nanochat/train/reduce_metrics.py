"""Mean of each metric of a step over its micro-batches and all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from nanochat.train.objective import Metrics


def mean_metrics(metrics: Sequence[Metrics], device: torch.device) -> dict[str, float]:
    """Mean of each metric over the micro-batches, of all processes, that have it and not as NaN; without any it is left out.

    A collective call: all processes must make it, but each may have metrics that others lack.
    """
    names = _of_all_processes(sorted({name for of_one in metrics for name in of_one}), device)
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


def _of_all_processes(names: list[str], device: torch.device) -> list[str]:
    """The names of all processes, in the same order in each."""
    if not dist.is_initialized():
        return names
    mine = torch.frombuffer(bytearray("\n".join(names).encode() + b"\n"), dtype=torch.uint8).to(device)
    longest = torch.tensor([len(mine)], device=device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padded = torch.full((int(longest),), ord("\n"), dtype=torch.uint8, device=device)
    padded[: len(mine)] = mine
    everyone = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, padded)
    return sorted({name for part in everyone for name in bytes(part.tolist()).decode().splitlines()} - {""})
