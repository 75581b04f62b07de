"""What a training script adds for a memory, on a controller of a few thousand parameters."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mc.auto_batch import choose_micro_batch
from mc.config import MCConfig, SessionConfig
from mc.eval.paired_stats import Estimate, PairedComparison
from mc.eval.row_eval import evaluate_memory, picture
from mc.nets.gistnet import GistConfig
from mc.train.controller import new_controller
from nanochat.runtime.device import Precision, Runtime
from tests.helpers.tiny_model import tiny_model

T = 128
RUNTIME = Runtime(torch.device("cpu"), Precision(torch.float32, "test"), "sdpa", False, 0, 1)


def controller(**settings):
    return new_controller(tiny_model(max_seq_len=T), MCConfig(block_size=8, **settings), T, 1, RUNTIME)


def rows(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(61, (count, T + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize(
    ("kind", "size", "batches"),
    [("layered", 6, 4), ("transformer", 3, 8)],  # divisors of 24 up to 8 rows / (1 + 2 × 16 / 128), 8 rows / (1 + 2 × 0.8)
)
def test_the_micro_batch_divides_the_step_and_is_said(kind: str, size: int, batches: int) -> None:
    said: list[str] = []
    gist = GistConfig(gistnet_type=kind)
    memory = controller(mc_joint="mean", mc_num_random_variants=2, gist=gist, session=SessionConfig(mc_tree="disk"))
    elsewhere = dataclasses.replace(RUNTIME, device=torch.device("mps"))
    assert choose_micro_batch(memory, 8, 24 * T, elsewhere, said.append) == size
    assert memory.micro_batches == batches
    assert said[0] == f"memory: {batches} micro-batches of {size} rows in a step; 3 of 8 without a memory"
    assert "training rows live in RAM" in said[1]
    assert choose_micro_batch(controller(), 8, 24 * T, elsewhere, said.append) == 8, "sums of others would round differently"
    assert choose_micro_batch(controller(mc_joint="mean", mc_auto_batch=False), 8, 24 * T, elsewhere, said.append) == 8
    assert choose_micro_batch(memory, 8, 24 * T, RUNTIME, said.append) == 8  # a CPU has the memory, and small ones cost time


def test_figures_that_are_not_defined_are_left_out_and_a_stop_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = evaluate_memory(controller(), [rows()])
    assert figures is not None and "mc/delta_nll@32" in figures and all(math.isfinite(value) for value in figures.values())
    assert evaluate_memory(controller(), [rows()], lambda: True) is None
    monkeypatch.setattr(PairedComparison, "recovery", lambda *_: Estimate(math.nan, math.nan))
    assert evaluate_memory(controller(), [rows()]).keys() == {name for name in figures if "recovery" not in name}


def test_a_picture_names_every_way_to_choose() -> None:
    lines = picture(controller(), [rows()]).splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["random", "recency", "lens", "oracle"]
    assert len({line.split()[-1] for line in lines[-4:]}) == 1, "equally many entries"
    short = new_controller(tiny_model(max_seq_len=32), MCConfig(block_size=8, mc_train_wc_length=24), 32, 1, RUNTIME)
    assert "too short" in picture(short, [tuple(part[:, :32] for part in rows())])
