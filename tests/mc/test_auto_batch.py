"""The micro-batch of a run with a memory: always a divisor of the step, never above what fits, and the probe leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mc.auto_batch import (
    choose_micro_batch_divisor,
    compute_variant_multiplier,
    divisors,
    estimate_mc_device_batch,
    largest_that_fits,
    probe_micro_batch,
    rehearse,
)
from mc.config import MCConfig
from mc.nets.gistnet import GistConfig
from mc.row_plan import RowPlan
from mc.train.controller import MCController
from mc.train.variant_sampler import Request
from nanochat.common import UserError
from nanochat.train.objective import StepResult
from tests.helpers.tiny_model import tiny_model

T = 96


def controller(**settings) -> MCController:
    """On a tiny model that can be trained."""
    model = tiny_model(max_seq_len=T).requires_grad_(True)
    return MCController(model, MCConfig(block_size=8, **settings), T, seed=3).init_weights(torch.Generator().manual_seed(1))


@given(st.integers(1, 512), st.floats(1, 40), st.integers(1, 512) | st.none())
def test_the_product_is_always_the_budget(budget: int, multiplier: float, fits: int | None) -> None:
    rows, accumulated = choose_micro_batch_divisor(budget, multiplier, fits)
    assert rows * accumulated == budget
    most = (budget if fits is None else fits) / multiplier
    assert rows == 1 or rows <= most
    assert not [d for d in divisors(budget) if rows < d <= most], "a larger micro-batch would have fitted"


def test_divisors() -> None:
    assert divisors(56) == [1, 2, 4, 7, 8, 14, 28, 56] and divisors(1) == [1]


@pytest.mark.parametrize(
    ("budget", "multiplier", "name"), [(0, 2.0, "per_rank_budget"), (8, 0.5, "desired_multiplier"), (8, math.nan, "desired")]
)
def test_a_step_that_cannot_be_is_refused(budget: int, multiplier: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        choose_micro_batch_divisor(budget, multiplier)


def test_the_multiplier_counts_what_the_widest_step_forwards() -> None:
    """Of layered gists that is the tail: see `test_a_variant_of_layered_gists_costs_its_tail`."""
    whole = GistConfig(gistnet_type="transformer")
    for settings in ({}, {"mc_num_random_variants": 1}, {"mc_train_wc_length": 90}):
        mc = controller(mc_joint="mean", gist=whole, **settings)
        N = max(2, mc.config.mc_num_random_variants)
        drawn = max(mc.sampler.sample(Request(draw, N, 1, mc.plan.width(0.0))).index.numel() for draw in range(20))
        assert compute_variant_multiplier(mc.plan) == pytest.approx(1 + drawn / T, abs=N * 8 / T)  # to the nearest block
    # One block: two layouts at most.
    few = RowPlan(MCConfig(block_size=32, mc_joint="mean", gist=whole, mc_num_random_variants=50, mc_train_wc_length=92), T)
    assert compute_variant_multiplier(few) <= 3
    pair = RowPlan(MCConfig(block_size=8, mc_joint="mean", gist=whole, mc_num_random_variants=1), T)
    assert estimate_mc_device_batch(8, 24, pair) == (3, 8)


@given(st.integers(1, 300), st.integers(0, 300), st.data())
def test_the_largest_that_fits_is_found_from_anywhere(number: int, limit: int, data: st.DataObject) -> None:
    candidates = divisors(number)
    first = data.draw(st.sampled_from(candidates))
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= limit

    assert largest_that_fits(candidates, first, fits) == max((c for c in candidates if c <= limit), default=None)
    assert len(tried) == len(set(tried)), "nothing is tried twice"


def state(objective: MCController) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}


@pytest.mark.parametrize("settings", [{}, {"gist": GistConfig(gistnet_type="transformer"), "mc_gist_recon_weight": 0.1}])
def test_a_rehearsal_leaves_everything_as_it_was(settings: dict) -> None:
    mc = controller(**settings)
    mc(*torch.randint(61, (2, 2, T)), 0.0)  # buffers and the draw are no longer at their start
    before, random = state(mc), torch.get_rng_state()
    rehearse(mc, 3, T)
    after = state(mc)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in mc.parameters())


def test_a_rehearsal_runs_the_backward_at_the_widest_step() -> None:
    seen = []

    class Watched(MCController):
        def forward(self, tokens: Tensor, targets: Tensor, progress: float) -> StepResult:
            result = super().forward(tokens, targets, progress)
            result.loss.register_hook(lambda gradient: seen.append((tokens.shape, progress)))
            return result

    mc = Watched(tiny_model(max_seq_len=T).requires_grad_(True), MCConfig(block_size=8), T).init_weights()
    rehearse(mc, 2, T)
    assert seen == [((2, T), 0.0)]


def test_an_error_in_a_rehearsal_is_not_hidden_and_leaves_no_trace() -> None:
    mc = controller()
    before = state(mc)
    hook = mc.gistnet.correction.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rehearse(mc, 2, T)
    hook.remove()
    assert all(parameter.grad is None for parameter in mc.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(mc).items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_the_probe_finds_what_fits() -> None:
    mc = controller().to("cuda")
    assert probe_micro_batch(mc, 24, 4, T) == 24
    limit = torch.cuda.memory_allocated() + (64 << 20)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        rows = probe_micro_batch(mc, 4096, 4, T)
        assert 1 <= rows < 4096
        before = state(mc)
        rehearse(mc, rows, T)
        assert all(torch.equal(before[name], tensor) for name, tensor in state(mc).items())
        torch.cuda.set_per_process_memory_fraction(1e-9)
        torch.cuda.empty_cache()
        with pytest.raises(UserError, match="out of GPU memory with one row"):
            probe_micro_batch(mc, 4096, 4096, T)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
