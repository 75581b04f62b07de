"""How a focus is measured: by a real session, refocus by refocus."""

from __future__ import annotations

import statistics

import pytest
import torch

from bench.tiny_chat import wandering_memory
from mc.session.base_session import session_spec
from mc.session.describe import REFOCUSES, measure_focus
from mc.session.session import start_session
from mc.session.tree import RamTree
from mc.train.controller import MCController
from nanochat.model.gpt import GPT, GPTConfig

STEPS = 20  # refocuses


@pytest.fixture(scope="module")
def controller() -> MCController:
    config = GPTConfig(depth=2, aspect_ratio=16, head_dim=16, max_seq_len=96, window_pattern="L", vocab_size=300)
    model = GPT(config, torch.float32).init_weights(torch.Generator().manual_seed(0)).requires_grad_(False)
    return wandering_memory(model).requires_grad_(False).eval()


def test_figures_are_those_of_the_sessions_refocuses(controller: MCController) -> None:
    session = start_session(controller, RamTree(session_spec(controller, controller.config.session)), controller.config.session)
    most, interval = session.budget.most, session.budget.interval
    tokens = torch.randint(300, (most + STEPS * interval + 3,), generator=torch.Generator().manual_seed(1))
    session.append(tokens[:most])
    before, seen = session.figures.edits, []
    for at in range(STEPS):
        session.append(tokens[most + at * interval : most + (at + 1) * interval])
        seen.append((session.figures.swap_rate, session.figures.residency))
    measured = measure_focus(controller, tokens)
    assert measured is not None
    swaps, residencies = zip(*seen, strict=True)
    assert measured.figures == {
        "tokens_read": most + STEPS * interval, "entries": most, "refocuses": STEPS, "edits": session.figures.edits - before,
        "swap_rate": statistics.fmean(swaps), "residency": statistics.fmean(residencies),
    }  # fmt: skip
    assert measured.figures["edits"] > 0 and 0 < measured.figures["swap_rate"] < 1 and 0.5 < measured.figures["residency"] <= 1
    assert "LOD1" in measured.picture


def test_too_short_a_text_measures_nothing_and_a_long_one_no_more_than_it_has_to(controller: MCController) -> None:
    session = start_session(controller, RamTree(session_spec(controller, controller.config.session)), controller.config.session)
    most, interval = session.budget.most, session.budget.interval
    assert measure_focus(controller, torch.zeros(most + interval - 1, dtype=torch.int64)) is None
    measured = measure_focus(controller, torch.zeros(most + (REFOCUSES + 9) * interval, dtype=torch.int64))
    assert measured is not None and measured.figures["refocuses"] <= REFOCUSES
