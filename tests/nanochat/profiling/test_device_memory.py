"""The estimate of a run's memory, held against what autograd, the model and the optimizer really hold."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from nanochat.common import ROOT
from nanochat.model.attention import AttentionBackend
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.model.recompute import ActivationCheckpointing
from nanochat.profiling.device_memory import (
    GIB,
    Addition,
    Pass,
    Setting,
    activation_bytes,
    device_memory,
    estimate,
    matrix_parameters,
    other_parameters,
    table_parameters,
)
from nanochat.train import optim
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from tests.helpers.fake_group import FakeGroup
from tests.helpers.saved_tensors import saved_bytes

SMALL = GPTConfig(depth=3, aspect_ratio=64, head_dim=64, max_seq_len=256, window_pattern="L", vocab_size=2048)
GROUPED = GPTConfig(depth=4, aspect_ratio=64, head_dim=32, kv_heads=2, max_seq_len=256, window_pattern="L", vocab_size=512)
CPU = Setting(torch.float32, "cpu", "blocked", compiled=False)
GPU = Setting(torch.bfloat16, "cuda", "flex", compiled=True)
D12 = GPTConfig(depth=12, max_seq_len=2048, window_pattern="SSSL")


def parts(config: GPTConfig = D12, rows: int = 14, addition: Addition | None = None, **setting: Any) -> dict[str, int]:
    return estimate(config, [Pass(rows, config.max_seq_len, True)], dataclasses.replace(GPU, **setting), addition).parts


@pytest.mark.parametrize("config", [SMALL, GROUPED], ids=["small", "grouped"])
def test_parameters_and_state_are_those_of_the_model_and_its_optimizer(config: GPTConfig) -> None:
    objective = NextTokenObjective(GPT(config))
    assert sum(p.numel() for p in objective.parameters()) == sum(f(config) for f in (matrix_parameters, table_parameters, other_parameters))
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(256, 1, 1.0, 1.0)))
    kinds = ("momentum", "exp_avg", "exp_avg_sq")  # the others are a number or two for each row
    state = sum(t.nbytes for name, t in optimizer.state_tensors().items() if name.endswith(kinds))
    told = estimate(config, [Pass(2, 256, False)], CPU).parts
    assert told["parameters"] == 4 * sum(p.numel() for p in objective.parameters())
    assert told["optimizer state"] == state


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "whole"])
@pytest.mark.parametrize("backend", ["blocked", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("config", [SMALL, GROUPED], ids=["small", "grouped"])
def test_activations_are_what_autograd_keeps(config: GPTConfig, dtype: torch.dtype, backend: AttentionBackend, chunked: bool) -> None:
    model = GPT(config, dtype, backend).init_weights(torch.Generator().manual_seed(0)).use_kernels(False, chunked)
    tokens = torch.randint(config.vocab_size, (2, 257))
    kept = saved_bytes(model, lambda: model(tokens[:, :-1], tokens[:, 1:]))
    setting = dataclasses.replace(CPU, dtype=dtype, backend=backend, chunked_ce=chunked)
    told = activation_bytes(config, Pass(2, 256, False), setting)
    told += dtype.itemsize * matrix_parameters(config) if dtype != torch.float32 else 0
    assert told == pytest.approx(kept, rel=0.12)


@pytest.mark.parametrize("world", [2, 8, 64])
@pytest.mark.parametrize("config", [SMALL, GROUPED], ids=["small", "grouped"])
def test_a_process_keeps_its_share_and_padding(config: GPTConfig, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of `world` processes: it owns what any other owns, or more."""
    FakeGroup(world, monkeypatch)
    objective = NextTokenObjective(GPT(config))
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(256, 1, 1.0, 1.0)))
    kept = sum(unit.momentum.nbytes for unit in optimizer._units if isinstance(unit, optim.MuonStack))
    kept += sum(2 * unit.exp_avg.nbytes for unit in optimizer._units if isinstance(unit, optim.AdamShard))
    told = estimate(config, [Pass(2, 256, False)], dataclasses.replace(CPU, world_size=world)).parts["optimizer state"]
    assert told == pytest.approx(kept, rel=0.01)


def test_more_processes_never_need_more() -> None:
    """Even beyond one for each matrix of a shape: nothing is padded."""
    totals = [estimate(D12, [Pass(1, 2048, True)], dataclasses.replace(GPU, world_size=world)).total for world in (2, 8, 64, 1024)]
    assert totals == sorted(totals, reverse=True)


def test_what_grows_with_what() -> None:
    once, twice = parts(rows=7), parts(rows=14)
    assert twice["activations"] > 1.9 * once["activations"] and twice["parameters"] == once["parameters"]
    assert parts(dtype=torch.float32)["activations"] > 1.8 * parts()["activations"]
    assert parts(world_size=4)["optimizer state"] == pytest.approx(parts()["optimizer state"] / 4, rel=1e-3)
    assert parts(world_size=6)["optimizer state"] > parts()["optimizer state"] / 2  # 6 does not divide the vocabulary: whole tables
    assert "gradients" in parts() and parts(accumulates=False)["gradients"] == 0  # a single backward makes them as activations go
    assert parts(chunked_ce=False)["activations"] > parts()["activations"] + 14 * 2048 * 32768 * 4
    added = parts(addition=Addition(matrices=10, vectors=5, activations=1000))
    assert added["parameters"] == parts()["parameters"] + 60 and added["optimizer state"] == parts()["optimizer state"] + 4 * 10 + 8 * 5


def test_layers_that_recompute_keep_less_and_shards_are_shares() -> None:
    kept = [parts(recompute=ActivationCheckpointing(mode))["activations"] for mode in ("none", "selective", "full")]
    assert kept[0] > 1.5 * kept[1] > 3 * kept[2]
    half = parts(recompute=ActivationCheckpointing("full", 2))["activations"]
    assert half == pytest.approx((kept[0] + kept[2]) / 2, rel=0.01)
    whole, sharded = parts(world_size=8), parts(world_size=8, sharded=True)
    for part in ("parameters", "gradients"):
        assert sharded[part] == pytest.approx(whole[part] / 8, rel=1e-3)
    assert sharded["optimizer state"] == whole["optimizer state"]
    assert sharded["loss"] > whole["loss"]  # gathered weights
    deep = dataclasses.replace(D12, depth=60)
    told = estimate(deep, [Pass(1, 2048, True)], dataclasses.replace(GPU, world_size=1024, sharded=True))
    assert told.moment == "evaluation"
    assert told.parts["gathered weights"] == 2 * matrix_parameters(deep) + 4 * table_parameters(deep)


def test_the_moment_that_needs_most_is_found() -> None:
    assert estimate(D12, [Pass(14, 2048, True)], GPU).moment == "forward"
    short = dataclasses.replace(D12, max_seq_len=16)
    assert estimate(short, [Pass(1, 16, True)], GPU).moment == "update"  # hardly an activation
    tables = dataclasses.replace(short, depth=2, aspect_ratio=256, vocab_size=262144)
    assert estimate(tables, [Pass(1, 16, True)], dataclasses.replace(GPU, chunked_ce=False)).moment == "backward"


def test_known_machines() -> None:
    """Shapes that have been trained by others on 80 GiB cards, with the same layers: they fit, and twice the rows do not."""
    for depth, rows in ((20, 32), (32, 8)):
        config = dataclasses.replace(D12, depth=depth)
        least, most = (estimate(config, [Pass(n * rows, 2048, True)], dataclasses.replace(GPU, world_size=8)) for n in (1, 2))
        assert least.fits(80 * GIB) and not most.fits(80 * GIB)


def test_what_fits() -> None:
    told = estimate(D12, [Pass(14, 2048, True)], GPU)
    assert told.fits(told.total) and not told.fits(told.total - 1)


def test_the_line_for_people() -> None:
    told = estimate(D12, [Pass(14, 2048, True)], GPU)
    said = told.describe(32 * GIB)
    assert said.startswith(f"needs about {told.total / GIB:.1f} of 32.0 GiB (process 1.0, parameters 1.1, ")
    assert told.describe().startswith(f"needs about {told.total / GIB:.1f} GiB (")


def test_the_memory_of_this_machine() -> None:
    there = device_memory(torch.device("cpu"))
    assert there is not None and 1 << 28 < there < 1 << 50
    assert device_memory(torch.device("mps")) is None


def test_peak_memory_counts_what_was_used() -> None:
    code = "from nanochat.profiling.device_memory import peak_memory_mib\nbefore = peak_memory_mib('cpu')\n"
    code += "block = b'x' * (100 << 20); del block; print(peak_memory_mib('cpu') - before)"
    assert 90 < float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout) < 120
