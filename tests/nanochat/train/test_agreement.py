"""Agreement of two real processes on identity, checkpoints and weights, and what a single one needs not agree on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from bench.warm_start import WarmStart
from nanochat.checkpoint.processes import ALONE
from nanochat.checkpoint.store import CheckpointStore
from nanochat.train.agreement import agree_on_run, agree_on_weights, bit_sum
from tests.helpers.tiny import warm  # noqa: F401 (pytest finds fixtures by name)
from tests.helpers.two_processes import new_world


def save(folder: Path, value: float, *steps: int) -> str:
    for step in steps:
        CheckpointStore(folder, keep=-1).save(step, {"model": {"w": torch.full((2,), value)}}, {})
    return str(folder)


def both(warm: WarmStart, first: list[str], second: list[str]) -> list[str]:  # noqa: F811
    """What the workers print: the error, or nothing."""
    world = new_world()
    workers = [warm.start("tests.helpers.agreement_worker", argv, world | {"RANK": str(rank)}) for rank, argv in enumerate((first, second))]
    codes = [worker.wait() for worker in workers]
    assert codes == [0, 0], workers[0].stderr + workers[1].stderr
    return [worker.stdout.strip() for worker in workers]


def test_processes_that_would_resume_from_different_checkpoints(warm: WarmStart, tmp_path: Path) -> None:  # noqa: F811
    host = platform.node()
    old, new = save(tmp_path / "old", 1.0, 4), save(tmp_path / "new", 1.0, 4, 8)
    changed, same = save(tmp_path / "changed", 2.0, 4, 8), save(tmp_path / "same", 1.0, 4, 8)
    seal = CheckpointStore(Path(new)).seal(8)
    lacks = f"checkpoint of step 8 differs: rank 1 on {host} has none; rank 0 on {host} has {seal}; let all processes see the same data, "
    for line in both(warm, [new, "auto", "1"], [old, "auto", "1"]):
        assert line == f"{lacks}tokenizer and checkpoints ({new if line.endswith(f'({new})') else old})"
    assert both(warm, [new, "4", "1"], [old, "4", "1"]) == ["", ""], "the step to resume from is the same"
    for line in both(warm, [new, "auto", "1"], [changed, "auto", "1"]):
        assert line.startswith(f"checkpoint of step 8 differs: rank 1 on {host} has {CheckpointStore(Path(changed)).seal(8)}; rank 0")
    assert both(warm, [new, "auto", "1"], [same, "auto", "1"]) == ["", ""]
    for line in both(warm, [new, "never", "1"], [same, "never", "2"]):
        assert line.startswith(f"sum of the weights' bits differs: rank 1 on {host} has ")


def test_a_single_process_agrees_with_itself(tmp_path: Path) -> None:
    agree_on_run({}, CheckpointStore(tmp_path), "auto", ALONE)
    agree_on_weights([torch.ones(2)], ALONE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_sees_every_bit_and_which_tensor_has_it(dtype: torch.dtype) -> None:
    a, b = torch.randn(64, 3, dtype=dtype), torch.randn(7, dtype=dtype)
    changed = b.clone()
    changed.view(torch.int32 if dtype == torch.float32 else torch.int16)[3] ^= 1
    assert bit_sum([a, b]) == bit_sum([a.clone(), b.clone()])
    assert bit_sum([a, changed]) != bit_sum([a, b]) != bit_sum([b, a])
