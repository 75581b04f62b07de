"""Restoring: a checkpoint's tensors go into those of a model or an optimizer piece by piece, without a second copy of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn as nn
from torch import Tensor

from nanochat.checkpoint.tensor_file import SavedTensor

PIECE_BYTES = 4 << 20  # at a time
_EXTRA = "_extra_state"  # what `nn.Module.get_extra_state` goes by

Saved = Tensor | SavedTensor


def all_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The rows of `tensor` that this process has, and the number of the first."""
    return tensor, 0


@torch.no_grad()
def restore_module(module: nn.Module, saved: Mapping[str, Saved], own_rows: Callable[[Tensor], tuple[Tensor, int]] = all_rows) -> None:
    """Restores the whole state of `module`, as `load_state_dict` does; of a tensor that is sharded, its `own_rows`.

    Raises `ValueError` that names what is missing, unknown or of another shape; then nothing is changed.
    """
    targets = module.state_dict()
    for name in [*targets, *saved]:
        if name not in saved or name not in targets:
            raise ValueError(f"{name} is {'missing' if name in targets else 'unknown'}")
        if targets[name].shape != saved[name].shape:
            raise ValueError(f"{name} is {list(saved[name].shape)}, not {list(targets[name].shape)}")
    for name, target in targets.items():
        owner, _, last = name.rpartition(".")
        if last == _EXTRA:
            module.get_submodule(owner).set_extra_state(saved[name][...])
        else:
            rows, first = own_rows(target)
            restore(rows, {0: saved[name]}, first)


def restore(target: Tensor, parts: Mapping[int, Saved], first: int = 0) -> None:
    """Fills `target` with the rows from `first` of a tensor saved in `parts`, which are by their first row. Raises `ValueError` if
    they do not have all of them."""
    if not target.ndim:
        target.copy_(parts[0][...])
        return
    filled = 0
    rows_at_once = max(1, PIECE_BYTES // max(1, target[:1].nbytes))
    for start, part in sorted(parts.items()):
        begin, end = max(start, first), min(start + part.shape[0], first + len(target))
        for row in range(begin, end, rows_at_once):
            stop = min(row + rows_at_once, end)
            target[row - first : stop - first].copy_(part[row - start : stop - start])
        filled += max(0, end - begin)
    if filled != len(target):
        raise ValueError(f"rows {first} to {first + len(target) - 1} are not all there")
