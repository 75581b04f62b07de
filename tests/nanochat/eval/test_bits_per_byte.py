"""Bits per byte: against the sum done by hand, and equal however the rows are shared out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nanochat.common import UserError
from nanochat.eval.bits_per_byte import evaluate_bpb, validation_batches
from tests.helpers.tiny_model import tiny_model
from tests.helpers.two_processes import in_two_processes


class Rows:
    """A loader of known rows."""

    seq_len = 6

    def __init__(self, count: int) -> None:
        self.rows_per_epoch = count
        self.all = np.random.default_rng(0).integers(0, 61, (count, self.seq_len + 1), dtype=np.int32)

    def rows(self, a: int, b: int) -> np.ndarray:
        return self.all[a:b]


def runtime(rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    return SimpleNamespace(rank=rank, world_size=world_size)


def lengths() -> torch.Tensor:
    token_bytes = torch.randint(1, 7, (61,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    token_bytes[50:] = 0  # special tokens
    return token_bytes


def test_bpb_is_the_sum_of_bits_over_the_sum_of_bytes() -> None:
    model, token_bytes = tiny_model(), lengths()
    generator = torch.Generator().manual_seed(2)
    batches = [tuple(torch.randint(61, (b, 9), generator=generator) for _ in range(2)) for b in (3, 1)]
    batches[0][1][1, 2:6] = -1
    bits = length = 0.0
    for tokens, targets in batches:
        logits = model.logits(model.backbone(model.embed(tokens), model.rotary(0, 9))).double().log_softmax(-1)
        for row in range(len(tokens)):
            for t in range(9):
                target = int(targets[row, t])
                if target >= 0 and token_bytes[target] > 0:
                    bits -= logits[row, t, target].item() / math.log(2)
                    length += token_bytes[target].item()
    assert evaluate_bpb(model, batches, token_bytes) == pytest.approx(bits / length, rel=1e-6)


def test_a_uniform_guess_over_bytes_costs_eight_bits() -> None:
    def uniform(tokens: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        return torch.full(targets.shape, math.log(256))

    batch = (torch.zeros(2, 5, dtype=torch.int64),) * 2
    assert evaluate_bpb(uniform, [batch], torch.ones(256, dtype=torch.int32)) == pytest.approx(8.0)


def test_stops_between_batches() -> None:
    model, seen = tiny_model(), []

    def batches():
        for i in range(5):
            seen.append(i)
            yield (torch.zeros(1, 4, dtype=torch.int64),) * 2

    assert evaluate_bpb(model, batches(), lengths(), should_stop=lambda: len(seen) == 3) is None
    assert seen == [0, 1, 2]


def test_nothing_to_count_is_an_error() -> None:
    special = torch.full((1, 4), 55)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_bpb(tiny_model(), [(special, special)], lengths())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_each_row_comes_once_however_it_is_shared_out(world_size: int, batch: int) -> None:
    loader = Rows(17)
    found = []
    for rank in range(world_size):
        for tokens, targets in validation_batches(loader, 11 * 6 + 5, batch, runtime(rank, world_size)):
            assert tokens.shape == targets.shape == (batch, 6) and tokens.dtype == targets.dtype == torch.int64
            full = (targets >= 0).all(1)
            assert (targets[~full] == -1).all() and (tokens >= 0).all()
            found += torch.cat([tokens, targets[:, -1:]], dim=1)[full].tolist()
    assert sorted(found) == sorted(loader.all[:11].tolist())


def test_no_more_rows_than_there_are_and_no_fewer_than_one() -> None:
    loader = Rows(3)
    assert sum(int((targets[:, 0] >= 0).sum()) for _, targets in validation_batches(loader, 10**9, 2, runtime())) == 3
    with pytest.raises(UserError, match="--eval-tokens"):
        next(validation_batches(loader, 5, 2, runtime()))


WORKER = """
import sys, torch, torch.distributed as dist
from types import SimpleNamespace
from nanochat.eval.bits_per_byte import evaluate_bpb, validation_batches
from tests.nanochat.eval.test_bits_per_byte import Rows, lengths
from tests.helpers.tiny_model import tiny_model
dist.init_process_group("gloo")
rank = dist.get_rank()
batches = lambda: validation_batches(Rows(13), 13 * 6, 2, SimpleNamespace(rank=rank, world_size=2))
stop = iter([False, rank == 1] + [False] * 99)
print(repr(evaluate_bpb(tiny_model(), batches(), lengths())), evaluate_bpb(tiny_model(), batches(), lengths(), lambda: next(stop)))
"""


def test_two_processes_get_what_one_gets_and_stop_together(root: Path) -> None:
    outputs = in_two_processes(root, WORKER)
    assert outputs[0] == outputs[1] and outputs[0][1] == "None"
    alone = evaluate_bpb(tiny_model(), validation_batches(Rows(13), 13 * 6, 2, runtime()), lengths())
    assert float(outputs[0][0]) == pytest.approx(alone, rel=1e-6)
