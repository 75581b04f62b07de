"""CUDA graphs without CUDA: a step's operations are recorded once and repeated on the same tensors, without the Python between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanochat.infer import kv_cache
from nanochat.infer.step_graphs import Outputs

FROM_HOST = ("aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.equal")  # a capture on CUDA fails at these


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not str(func).startswith(FROM_HOST), f"{func} moves a value between the host and the device"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


def record(step: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """In the place of a capture. The first replay is the recording itself, so that the step is carried out as often as on CUDA."""
    with _Recorder() as recorder:
        outputs = step()
    fresh = True

    def replay() -> Outputs:
        nonlocal fresh
        if not fresh:
            with torch.inference_mode():
                for func, args, kwargs, out in recorder.calls:
                    _repeat(func, args, kwargs, out)
        fresh = False
        return outputs

    return replay


def _repeat(func: Callable[..., Any], args: tuple, kwargs: dict, out: Any) -> None:
    """Carries out an operation again and writes the results where they were."""
    if not func._schema.is_mutable and _memory(out) & _memory([*args, *kwargs.values()]):
        return  # views of then still show the same memory
    again = func(*args, **kwargs)
    for old, new in zip(_tensors(out), _tensors(again), strict=True):
        if old is not new:
            old.copy_(new)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _memory(values: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(values) if not tensor.is_mkldnn}


class Graphs:
    """Makes caches on a CPU record their steps; `recorded` counts the recordings and `replayed` the steps that came from one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded = self.replayed = 0
        monkeypatch.setattr(kv_cache, "capture_for", lambda device: self._capture)

    def _capture(self, step: Callable[[], Outputs]) -> Callable[[], Outputs]:
        replay = record(step)
        self.recorded += 1

        def counted() -> Outputs:
            self.replayed += 1
            return replay()

        return counted
