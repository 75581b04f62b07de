"""The estimate of a run with a memory, held against its parameters and what autograd keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mc.config import LensLossConfig, MCConfig
from mc.device_memory import Foresight, estimate_run, foresee
from mc.nets.gistnet import GistConfig
from mc.row_plan import RowPlan
from mc.train.controller import SMALL, MCController
from nanochat.common import UserError
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.profiling.device_memory import GIB, Setting
from nanochat.runtime.device import Precision, Runtime
from tests.helpers.saved_tensors import saved_bytes

CONFIG = GPTConfig(depth=4, aspect_ratio=64, head_dim=64, max_seq_len=256, window_pattern="L", vocab_size=512)
CPU = Setting(torch.float32, "cpu", "blocked", compiled=False)
GPU = Runtime(torch.device("cuda"), Precision(torch.bfloat16, "test"), "flex", True, 0, 1)
D12 = GPTConfig(depth=12, max_seq_len=2048, window_pattern="SSSL")
MEMORIES = {
    "full": MCConfig(mc_enabled=True, block_size=8),
    "mean": MCConfig(mc_enabled=True, block_size=8, mc_joint="mean"),
    "weight": MCConfig(mc_enabled=True, block_size=8, mc_joint="0.1"),
    "layered": MCConfig(mc_enabled=True, block_size=8, gist=GistConfig("layered")),
    "layered, weight": MCConfig(mc_enabled=True, block_size=8, mc_joint="0.1", gist=GistConfig("layered")),
    "fast": MCConfig(mc_enabled=True, block_size=8, mc_num_random_variants=1, mc_anneal=False, gist=GistConfig(gistnet_type="context")),
    "query": MCConfig(
        mc_enabled=True,
        block_size=8,
        gist=GistConfig(gistnet_type="transformer", gistnet_pooling="query", gist_slots=2),
        mc_gist_recon_weight=0.1,
    ),
    "without a lens": MCConfig(mc_enabled=True, block_size=8, lens_loss=LensLossConfig(mc_lens_loss_weight=0.0)),
}


def at(available: float | None, memory: MCConfig | None = None, batch: int = 14, **config: Any) -> Foresight:
    foresight = foresee(dataclasses.replace(D12, **config), memory, batch, 56 * 2048, GPU, chunked_ce=True)
    return dataclasses.replace(foresight, available=None if available is None else int(available * GIB))


@pytest.mark.parametrize("name", MEMORIES)
def test_parameters_and_activations_are_the_controllers(name: str) -> None:
    memory = MEMORIES[name]
    controller = MCController(GPT(CONFIG, torch.float32, "blocked").use_kernels(False, True), memory, 256)
    controller.model.init_weights(torch.Generator().manual_seed(0))
    controller.init_weights(torch.Generator().manual_seed(1))
    told = estimate_run(CONFIG, memory, 2, CPU).parts
    trained = [p for p in controller.parameters() if p.requires_grad]
    assert told["parameters"] == 4 * sum(p.numel() for p in trained)
    own = [p for n, p in controller.named_parameters() if p.requires_grad and not n.startswith("model.")]
    vectors = sum(p.numel() for p in own if p.ndim != 2 or min(p.shape) <= SMALL)
    assert told["optimizer state"] == estimate_run(CONFIG, None, 2, CPU).parts["optimizer state"] + 4 * (
        sum(p.numel() for p in own) + vectors
    )
    tokens = torch.randint(512, (2, 257))
    kept = saved_bytes(controller, lambda: controller(tokens[:, :-1], tokens[:, 1:], 0.0).total)
    assert told["activations"] == pytest.approx(kept, rel=0.2)


def test_variants_count_as_their_entries() -> None:
    memory = MCConfig(mc_enabled=True, mc_joint="mean", gist=GistConfig(gistnet_type="transformer"))
    plain, with_memory = (estimate_run(D12, m, 4, CPU).parts["activations"] for m in (None, memory))
    assert with_memory / plain == pytest.approx(RowPlan(memory, 2048).multiplier(0.0), rel=0.15)


# Layered variants take more than their tokens: keys, values and probabilities. The search starts too high there, and goes down.
@pytest.mark.parametrize(("kind", "more", "saved"), [("transformer", 1.3, 2), ("layered", 1.4, 1.5)])
def test_a_gpu_run_with_a_memory_starts_from_fewer_rows(kind: str, more: float, saved: float) -> None:
    settings = {"mc_enabled": True, "mc_joint": "mean", "gist": GistConfig(gistnet_type=kind)}
    full = at(32, MCConfig(**settings))
    assert full.searches and full.at(14).total < more * at(32).at(14).total
    fixed = at(32, MCConfig(**settings, mc_auto_batch=False))
    assert not fixed.searches and fixed.at(14).total > saved * full.at(14).total


def test_the_largest_batch_divides_the_rows_of_a_step_and_fits() -> None:
    foresight = at(32)
    largest = foresight.largest_that_fits()
    assert largest == 28  # what the recipe for a card of 32 GB goes by
    assert foresight.at(28).fits(32 * GIB) and not foresight.at(56).fits(32 * GIB)
    assert at(1).largest_that_fits() is None and at(None).largest_that_fits() == 56


def test_a_run_that_does_not_fit_is_refused() -> None:
    at(None, batch=56).check()
    at(50, batch=56).check()
    line = r"the run needs about 4\d\.\d of 32.0 GiB \(.*\); --device-batch-size 28 would fit; .*--check-memory 0"
    with pytest.raises(UserError, match=line):
        at(32, batch=56).check()
    needs = at(None, batch=56).at(56).total
    dataclasses.replace(at(50, batch=56), available=needs).check()
    with pytest.raises(UserError, match="the run needs about"):
        dataclasses.replace(at(50, batch=56), available=needs - 1).check()
    with pytest.raises(UserError, match="not even one row would fit"):
        at(2).check()


def test_a_search_is_refused_only_where_one_row_does_not_fit() -> None:
    memory = MCConfig(mc_enabled=True, mc_joint="mean", mc_num_random_variants=8)
    at(10, memory, batch=56).check()  # it will find fewer rows
    with pytest.raises(UserError, match="not even one row"):
        at(5, memory).check()
