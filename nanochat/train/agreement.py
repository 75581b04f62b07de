"""Agreement of the processes of a run on what they train: identity, checkpoint and weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint.processes import Processes
from nanochat.checkpoint.store import CheckpointStore
from nanochat.runtime.peers import agree

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}  # by bytes


def agree_on_run(identity: Mapping[str, Any], store: CheckpointStore, resume: str, processes: Processes) -> None:
    """Checks that all processes have the run's identity and the checkpoints of rank 0 that `--resume` may take. A collective call.

    Raises `UserError` in each process if one has not.
    """
    if processes.world_size == 1:
        return
    steps = processes.first({"never": [], "auto": store.steps()}[resume] if not resume.isdecimal() else [int(resume)])
    seals = {f"checkpoint of step {step}": store.seal(step) for step in reversed(steps)}
    agree({**identity, **seals}, f"let all processes see the same data, tokenizer and checkpoints ({store.folder})")


def agree_on_weights(parameters: Iterable[Tensor], processes: Processes) -> None:
    """Checks that all processes are about to train the same weights. A collective call; raises `UserError` in each if they are not."""
    if processes.world_size > 1:
        agree({"sum of the weights' bits": bit_sum(parameters)}, "start all processes from the same model and with the same --seed")


def bit_sum(tensors: Iterable[Tensor]) -> int:
    """Integer that different weights hardly have in common: sums of their bits, each times the position of its tensor."""
    sums = [tensor.detach().flatten().view(_INTEGERS[tensor.element_size()]).sum() for tensor in tensors]
    return sum(position * value for position, value in enumerate(torch.stack(sums).tolist(), 1))
