"""Peers: what the processes of a run tell each other, and the check that they are about to do the same."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from nanochat.common import UserError


def gather(text: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """`text` of each process, by rank; of this one alone without a process group. A collective call, over the connections of `group`."""
    if not dist.is_initialized():
        return [text]
    mine = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)  # no tensor is empty
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(mine)]), group)
    longest = max(int(length) for length in lengths)
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))), group)
    return [bytes(part[: int(length) - 1].tolist()).decode() for part, length in zip(parts, lengths, strict=True)]


def gather_json(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """`value`, which is JSON, of each process, by rank. A collective call, over the connections of `group`."""
    return [json.loads(text) for text in gather(json.dumps(value), group)]


def agree(values: Mapping[str, Any], otherwise: str) -> None:
    """Compares `values`, which are JSON, with those of the other processes. A collective call.

    Raises `UserError` in each process if one has another value than rank 0; the message names the first such value, who has it,
    and ends with what to do `otherwise`.
    """
    everyone = gather_json([platform.node(), dict(values)])
    first_host, first = everyone[0]
    for name in dict.fromkeys(name for _, theirs in everyone for name in theirs):
        differing: dict[tuple[str, str], list[int]] = {}
        for rank, (host, theirs) in enumerate(everyone):
            if theirs.get(name) != first.get(name):
                differing.setdefault((host, _shown(theirs.get(name))), []).append(rank)
        if differing:
            who = ", ".join(f"{ranks_of(ranks)} on {host} {value}" for (host, value), ranks in differing.items())
            raise UserError(f"{name} differs: {who}; rank 0 on {first_host} {_shown(first.get(name))}; {otherwise}")


def ranks_of(ranks: list[int]) -> str:
    """Ascending ranks for a line: `rank 3`, `ranks 1, 8–15`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def _shown(value: Any) -> str:
    return "has none" if value in (None, "") else f"has {value}"
