"""Three processes that shard a model train it as three that do not, and take up each other's checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat.profiling.device_memory import Pass, Setting, estimate
from tests.helpers import sharded_worker as worker
from tests.helpers.two_processes import new_world

SCALARS = ("resid_lambdas", "x0_lambdas", "smear", "backout_lambda")  # sums of many small terms: rounding shows in their gradients


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """What the processes left. They run once: their start takes most of the time."""
    folder, port = tmp_path_factory.mktemp("sharded"), new_world()["MASTER_PORT"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "NANOCHAT_DTYPE": "fp32"}
    processes = [
        subprocess.Popen(
            [sys.executable, worker.__file__, str(folder), str(rank), port], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(worker.WORLD)
    ]
    try:
        errors = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert all(p.returncode == 0 for p in processes), "\n".join(errors)
    return folder


def left(out: Path, run: str) -> list[dict[str, Tensor]]:
    """What the processes of a run left, by rank."""
    return [load_file(out / f"{run}.{rank}.safetensors") for rank in range(worker.WORLD)]


@pytest.mark.parametrize(
    ("run", "like"),
    [("sharded_half", "whole_half"), ("sharded", "whole"), ("sharded_from_whole", "whole"), ("whole_from_sharded", "whole")],
)
def test_both_ways_train_the_same(out: Path, run: str, like: str) -> None:
    for rank, (mine, expected) in enumerate(zip(left(out, run), left(out, like), strict=True)):
        assert mine.keys() == expected.keys()  # the same tensors, of the same owners
        assert any(name.startswith("model.") for name in mine) == (rank == 0)
        for name in ("losses", "norms", "evaluated"):
            torch.testing.assert_close(mine[name], expected[name], rtol=1e-6, atol=0)
        for name in mine.keys() - {"kept"}:
            if not any(scalar in name for scalar in SCALARS):
                assert (mine[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name  # AdamW divides by gradients near 0


def test_resuming_is_exact(out: Path) -> None:
    for whole, resumed in zip(left(out, "sharded"), left(out, "sharded_from_sharded"), strict=True):
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bf16_with_layers_that_recompute(out: Path) -> None:
    """Gradients are rounded as in whole models, but added in another order."""
    for mine, expected in zip(left(out, "sharded_bf16"), left(out, "whole_bf16"), strict=True):
        for name in ("losses", "norms", "evaluated"):
            torch.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", ["", "_bf16"])
def test_a_process_keeps_its_share_of_the_parameters(out: Path, dtype: str) -> None:
    told = estimate(worker.CONFIG, [Pass(2, 24, False)], Setting(torch.float32, "cpu", "blocked", False, world_size=3, sharded=True))
    for mine, whole in zip(left(out, f"sharded{dtype}"), left(out, "whole"), strict=True):
        assert told.parts["parameters"] == pytest.approx(4 * mine["kept"].item(), rel=0.02)
        assert 0.32 < mine["kept"] / whole["kept"] < 0.35
