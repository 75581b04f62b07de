"""Snapshot: what a process will save, as of one moment, in host memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.checkpoint.manifest import META, Buffer
from nanochat.checkpoint.processes import Processes
from nanochat.checkpoint.tensor_file import to_bytes
from nanochat.common import encoded

Tensors = Mapping[str, Mapping[str, torch.Tensor]]
_GROUP = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Snapshot:
    """The files of a process's part of a checkpoint, by name, and the names of the tensors in them."""

    step: int
    files: dict[str, Buffer]
    names: list[str]

    @property
    def bytes(self) -> int:
        """Size of the files that are not written yet."""
        return sum(len(data) for data in self.files.values())


def take(step: int, tensors: Tensors, meta: Mapping[str, Any], processes: Processes) -> Snapshot:
    """Copies what this process saves; `meta` is taken by the first. Raises `ValueError` or `TypeError` for what cannot be saved."""
    if step < 0 or not 0 <= processes.rank < processes.world_size:
        raise ValueError(f"cannot save step {step} as rank {processes.rank} of {processes.world_size}")
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(f"invalid tensor group name {group!r}: use lower-case letters, digits and _")
        for name, tensor in named.items():
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{group}/{name} is a {type(tensor).__name__}, not a tensor")
    files: dict[str, Buffer] = {}
    if processes.rank == 0:
        files[META] = encoded(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    suffix = f".rank{processes.rank:02d}" if processes.world_size > 1 else ""
    for group, named in tensors.items():
        if named or processes.rank == 0:
            files[f"{group}{suffix}.safetensors"] = to_bytes(named)
    return Snapshot(step, files, sorted(f"{group}/{name}" for group, named in tensors.items() for name in named))
