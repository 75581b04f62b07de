"""Bits per byte: a language model's loss in a unit that does not depend on its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.common import UserError
from nanochat.data.rows import Loader, inputs_and_targets, masked_rows
from nanochat.runtime.device import Runtime

Losses = Callable[[Tensor, Tensor, str], Tensor]  # (tokens, targets, "none") → nats of each target; `GPT` is one


def never() -> bool:
    """`should_stop` of an evaluation that is never stopped."""
    return False


def losses_in_training(model: Losses) -> Losses:
    """Detached losses of a model in training. Gradients stay enabled: without them, compiled layers would be compiled again."""

    @torch.enable_grad()
    def losses(tokens: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return model(tokens, targets, reduction).detach()

    return losses


@torch.no_grad()
def evaluate_bpb(
    model: Losses,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: Tensor,
    should_stop: Callable[[], bool] = never,
) -> float | None:
    """Mean bits per byte of `batches`, pairs of tokens and targets int64 [B,T], over the batches of all processes.

    `token_bytes`, int [V] on the model's device, is the length of each token in UTF-8. Targets of 0 bytes (special tokens) and
    of −1 count neither as loss nor as length. None if `should_stop()` became true in any process. Raises `ValueError` if no
    target counts.
    """
    device = token_bytes.device
    sums = torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)  # nats, bytes, stopped
    for tokens, targets in batches:
        if should_stop():
            sums[2] = 1
            break
        tokens, targets = tokens.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        losses = model(tokens, targets, "none")
        lengths = token_bytes[targets.clamp(min=0)] * (targets >= 0)
        sums[0] += torch.where(lengths > 0, losses, 0.0).sum()
        sums[1] += lengths.sum()
    if dist.is_initialized():
        dist.all_reduce(sums)
    nats, length, stopped = sums.tolist()
    if stopped:
        return None
    if not length:
        raise ValueError("no target has any bytes: nothing to evaluate")
    return nats / (math.log(2) * length)


def validation_batches(loader: Loader, tokens: int, device_batch_size: int, runtime: Runtime) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the first `tokens` tokens of `loader`, or of all it has: tokens and targets int64 [b,T].

    The processes share the rows, each once. Every batch has `device_batch_size` rows, so that a compiled model has one shape
    only; missing rows have targets of −1. Raises `UserError` if `tokens` are less than one row.
    """
    rows = min(tokens // loader.seq_len, loader.rows_per_epoch)
    if not rows:
        raise UserError(f"{tokens} evaluation tokens do not fill one row of {loader.seq_len}; use a larger --eval-tokens")
    for begin in range(runtime.rank * device_batch_size, rows, runtime.world_size * device_batch_size):
        batch = masked_rows(device_batch_size, loader.seq_len, 0)
        end = min(begin + device_batch_size, rows)
        batch[: end - begin] = loader.rows(begin, end)
        yield inputs_and_targets(torch.from_numpy(batch.astype(np.int64)))
