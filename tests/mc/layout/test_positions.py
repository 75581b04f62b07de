"""Positions of gists against their formulas, and of tokens against ordinary RoPE, bit for bit."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from mc.layout.layout import Geometry, Layout
from mc.layout.positions import PositionType, entry_rotary
from mc.nets.gist_bank import BankShape, Positions, bank_index, bank_layout
from nanochat.model.gpt import rotary_at
from tests.helpers.layouts import raw
from tests.helpers.tiny_memory import SEQ_LEN, as_layout, as_variants, entries, tiny_batch, tiny_gpt, tiny_memory

KINDS = get_args(PositionType)

MIXED = entries([2, 2, 2, 2, 0, 1, 1, 0], 35, Geometry(4, 2))


def frequencies(head_dim: int) -> torch.Tensor:
    """fp64 [E/2]."""
    return torch.tensor([100_000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_get_ordinary_rope_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    model = tiny_gpt(dtype=dtype)
    ordinary = model.rotary(0, 24)
    shape = BankShape(24, 16, Geometry(4, 2), 2)
    layout = raw(3, 24)
    direct = entry_rotary(layout, shape.geometry, kind, 8, dtype)
    gathered = Positions(kind, 8, dtype)(shape, layout, bank_index(layout, shape))
    for rotary in (direct, gathered):
        assert rotary.cos.dtype == dtype
        for mine, theirs in zip(rotary, ordinary, strict=True):
            assert torch.equal(mine.expand(3, 24, 1, 4), theirs.expand(3, 24, 1, 4))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "local"])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_gist_stands_at_the_centre_of_its_tokens_damped_by_their_spread(kind: str, slots: int) -> None:
    E, geometry = 32, Geometry(4, slots)
    row = entries([2, 2, 2, 2, 0, 1, 1, 0], 35, geometry)
    rotary = entry_rotary(as_layout([row]), geometry, kind, E, torch.float32)
    for i, (level, start) in enumerate(row):
        tokens = torch.arange(start, start + (4**level // slots if level else 1), dtype=torch.float64)
        angle = tokens.mean() * frequencies(E)
        variance = (tokens - tokens.mean()).square().mean()  # of a uniform position over the tokens
        damping = torch.exp(-0.5 * variance * frequencies(E) ** 2) if kind != "simple" else 1
        torch.testing.assert_close(rotary.cos[0, i, 0].double(), angle.cos() * damping, rtol=0, atol=3e-6)
        torch.testing.assert_close(rotary.sin[0, i, 0].double(), angle.sin() * damping, rtol=0, atol=3e-6)


def test_the_spread_of_a_level() -> None:
    """σ_l = √((K^2l − 1) / 12), from the ratio of damped to undamped rotation."""
    layout = as_layout([[(0, 0)], [(1, 0)], [(2, 0)]])
    damped, plain = (entry_rotary(layout, Geometry(8), kind, 2, torch.float64) for kind in ("gaussian", "simple"))
    damping = (damped.cos.square() + damped.sin.square()).sqrt() / (plain.cos.square() + plain.sin.square()).sqrt()
    expected = [math.exp(-(8 ** (2 * level) - 1) / 24) for level in range(3)]  # frequency 1
    torch.testing.assert_close(damping.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-12)
    assert damping.flatten()[0] == 1


def test_local_positions_are_places_in_the_working_context() -> None:
    rotary = entry_rotary(as_layout([MIXED]), Geometry(4, 2), "local", 8, torch.float32)
    expected = rotary_at(torch.arange(len(MIXED)), 8, torch.float32)
    assert torch.equal(rotary.cos, expected.cos) and torch.equal(rotary.sin, expected.sin)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_a_bank_are_those_of_the_layout(kind: str) -> None:
    shape = BankShape(35, 32, Geometry(4, 2), 2)
    layout = as_layout([MIXED, entries([0, 0, 1, 1, 2, 2, 2, 2], 35, shape.geometry)])
    positions = Positions(kind, 8, torch.float32)
    for _ in range(2):
        got = positions(shape, layout, bank_index(layout, shape))
        expected = entry_rotary(layout, shape.geometry, kind, 8, torch.float32)
        torch.testing.assert_close(got, expected)
        layout = Layout(*(t.flip(0) for t in layout))
    assert (bank_index(bank_layout(shape), shape) == torch.arange(35 + 16 + 4)).all()


@pytest.mark.parametrize("backend", ["sdpa", "blocked"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_working_context_of_tokens_alone_is_the_plain_model_bit_for_bit(kind: str, backend: str) -> None:
    """Hidden states and each token's loss."""
    memory = tiny_memory(positional_type=kind, model={"window_pattern": "SL"})
    memory.model.backend = backend
    tokens, targets = tiny_batch(3)
    with torch.no_grad():
        hidden = memory.model.backbone(memory.model.embed(tokens), memory.model.rotary(0, SEQ_LEN))
        losses = memory.model(tokens, targets, "none")
        plain = memory.forward_plain(tokens, compiled=True)
        variants = as_variants(memory, torch.zeros(1, 3, memory.plan.blocks, dtype=torch.int64))
        mine = memory.forward_layouts(memory.build_bank(plain), variants.layout, variants.index, compiled=True).hidden
        my_losses = memory.model.loss(mine, targets.gather(1, variants.predicts), "none")
        plain_losses = memory.model.loss(plain.hidden, targets, "none")
    assert torch.equal(plain.hidden, hidden) and torch.equal(plain_losses, losses)
    assert torch.equal(variants.predicts, torch.arange(SEQ_LEN).expand(3, -1))
    assert torch.equal(mine, hidden) and torch.equal(my_losses, losses)
