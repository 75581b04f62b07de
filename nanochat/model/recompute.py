"""Activation checkpointing: layers that compute activations again in the backward instead of keeping them (arXiv 1604.06174).

`full` keeps a layer's input only; `selective` also keeps what matmuls and attention return, and recomputes the cheap rest
(arXiv 2205.05198). Loss and gradients are those of a layer that keeps everything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn as nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from nanochat.flags import check, check_choices, flag

Recompute = Literal["none", "selective", "full"]
MATMULS = ("mm", "addmm", "bmm", "baddbmm")
ATTENTION = ("attention", "flash_attn")  # parts of the names of the operations of all attention backends, namespaces included


@dataclass
class ActivationCheckpointing:
    """What layers recompute in the backward instead of keeping it: less device memory, more time."""

    activation_checkpointing: Recompute = flag("none", "recompute in the backward: none, selective = all but matmuls and attention, full")
    activation_checkpointing_every: int = flag(1, "recompute in one of so many layers", unit="layers")

    def __post_init__(self) -> None:
        check_choices(self, "activation_checkpointing")
        check(self, lambda value: value >= 1, "must be at least 1", "activation_checkpointing_every")
        if self.activation_checkpointing == "none" and self.activation_checkpointing_every > 1:
            raise ValueError(
                f"activation_checkpointing_every is {self.activation_checkpointing_every}; it has no effect without "
                "--activation-checkpointing selective or full"
            )

    def of_layer(self, layer: int) -> Recompute:
        """What `layer` recomputes."""
        return "none" if layer % self.activation_checkpointing_every else self.activation_checkpointing


def recomputed(layer: nn.Module, forward: Callable[..., Any], recompute: Recompute, *inputs: Any) -> Any:
    """`forward(*inputs)` of `layer`; its backward calls it again, so it must have no side effects if gradients are enabled."""
    if recompute == "none" or not torch.is_grad_enabled():
        return forward(*inputs)
    if not torch.compiler.is_compiling() and not any(p.requires_grad for p in layer.parameters()):
        forward = _frozen(layer, forward)
    contexts = {"context_fn": _kept_apart} if recompute == "selective" else {}
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts)


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Within it, no parameter of `model` requires a gradient; what was recorded before keeps its own."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _frozen(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` without gradients of the layer's parameters, also in a backward, in which these may learn again."""

    def run(*inputs: Any) -> Any:
        with without_gradients(layer):
            return forward(*inputs)

    return run


def _keeps(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    name = operation.name().partition(".")[0]  # aten::mm, flash_attn_3::fwd, flex_attention
    kept = name.removeprefix("aten::") in MATMULS or any(part in name for part in ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_kept_apart = functools.partial(create_selective_checkpoint_contexts, _keeps)
