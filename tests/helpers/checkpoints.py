"""Checkpoints of made-up tensors, and damage to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint.store import Checkpoint, CheckpointStore


def state(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return {
        "model": {"w": torch.randn(64, 32, generator=g)},
        "optimizer": {"m": torch.randn(64, 32, generator=g), "step": torch.tensor(seed)},
    }


def saved(folder: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    for step in steps:
        store.save(step, state(step), {"step": step})
    return store


def contents(checkpoint: Checkpoint) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """All tensors of a checkpoint, and its meta, to be changed and saved again."""
    return {group: dict(named) for group, named in checkpoint.tensors.items()}, checkpoint.meta


def same(a: dict[str, dict[str, torch.Tensor]], b: dict[str, dict[str, torch.Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        a[g].keys() == b[g].keys() and all(a[g][n].dtype == b[g][n].dtype and a[g][n].equal(b[g][n]) for n in a[g]) for g in a
    )


def flip(path: Path, place: int = -1, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
