"""What autograd keeps of a forward, counted by its own hooks, and what is alive after it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the storages that the graph of `forward` keeps, each counted once; not the parameters of `module`."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, Tensor] = {}  # alive, so that no two share an address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class _Storages(TorchDispatchMode):
    """Notes the storage of every tensor that an operation returns, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True


def live_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the storages that are alive as long as the loss of `forward` is, whoever keeps them; not the parameters of `module`."""
    parameters = {p.untyped_storage()._cdata for p in module.parameters()}
    with _Storages() as storages:
        loss = forward()
    assert loss.requires_grad
    gc.collect()
    return sum(size for key, (storage, size) in storages.seen.items() if key not in parameters and not storage.expired())
