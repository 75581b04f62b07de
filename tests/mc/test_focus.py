"""LensNet in training: what it sees, what teaches it, what it remembers."""

from __future__ import annotations

import math

import pytest
import torch

from mc.attention_mass import attention_mass
from mc.focus import METRICS
from mc.lens_loss import attention_loss
from mc.sampler import Request
from tests.mc.tiny_memory import tiny_batch, tiny_memory


def draw(memory, rows: int = 3):
    """(tree, variants, entries) of random rows."""
    tokens, targets = tiny_batch(rows)
    _, row = memory.read_rows(tokens, targets)
    tree = memory.tree(row)
    variants = memory.sampler.sample(Request(0, 3, rows, 60))
    return tree, variants, memory.read(tree, variants)[0].x


def test_every_weighted_term_changes_the_loss_and_reaches_lensnet() -> None:
    terms = ("attention", "kl", "rank", "budget", "budget_smooth")
    off = {f"mc_lens_{term}_weight": 0.0 for term in terms}
    attention = torch.rand(3, 10, generator=torch.Generator().manual_seed(5))
    losses = {}
    for term in (None, *terms):
        memory = tiny_memory(mc_max_lod=1, lens_loss=off | ({f"mc_lens_{term}_weight": 0.7} if term else {}))
        tree, variants, entries = draw(memory)
        if term == "kl":  # a policy that has moved away from the one remembered
            memory.focus.lensnet.c_score.weight.data.mul_(-2)
        advantages = torch.randn(variants.levels.shape[:2], generator=torch.Generator().manual_seed(6))
        loss, metrics = memory.focus.loss(tree, entries, variants, 1, advantages, attention if term == "attention" else None)
        assert tuple(metrics) == METRICS and all(math.isfinite(float(value)) for value in metrics.values())
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in memory.focus.lensnet.parameters())
        assert all(p.grad is None for p in memory.gistnet.parameters())  # what a gist holds is not LensNet's to decide
        losses[term] = loss.item()
    assert all(abs(losses[term] - losses[None]) > 1e-6 for term in terms if term != "kl")
    assert len({round(loss, 7) for loss in losses.values()}) == len(losses)


def test_the_reference_follows_lensnet_slowly() -> None:
    memory = tiny_memory(mc_max_lod=1, lens_loss={"mc_lens_kl_weight": 1.0})
    tree, variants, entries = draw(memory)
    before = memory.focus.reference.c_score.weight.clone()
    memory.focus.lensnet.c_score.weight.data.add_(1.0)
    memory.focus.loss(tree, entries, variants, 0, torch.randn(variants.levels.shape[:2]), None)
    moved = memory.focus.reference.c_score.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0, atol=1e-6)
    assert not any(p.requires_grad for p in memory.focus.reference.parameters())


def test_resting_is_zero_and_touches_each_parameter() -> None:
    memory = tiny_memory(mc_max_lod=1)
    loss, metrics = memory.focus.idle()
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in memory.focus.lensnet.parameters())
    assert tuple(metrics) == METRICS and all(math.isnan(value) for value in metrics.values())
    tree, variants, entries = draw(memory)
    _, learned = memory.focus.loss(tree, entries, variants, 0, torch.randn(variants.levels.shape[:2]), None)
    assert memory.focus.idle()[1] is learned


def test_attention_loss_by_hand() -> None:
    scores = torch.tensor([[[0.5, -0.5], [0.9, 0.1]]])  # one context of two rows
    attention = torch.tensor([[0.0, 3.0], [0.0, 0.0]])  # the second row lost nothing
    expected = -math.log(math.exp(-0.5 / 0.2) / (math.exp(0.5 / 0.2) + math.exp(-0.5 / 0.2)))
    assert attention_loss(scores, attention, 0.2).item() == pytest.approx(expected, rel=1e-5)
    assert attention_loss(scores, torch.zeros(2, 2), 0.2).item() == 0
    shares = (scores[0] / 0.2).softmax(-1)
    assert attention_loss(scores, shares * torch.tensor([[3.0], [0.1]]), 0.2).item() == pytest.approx(0, abs=1e-6), "perfect"
    even = attention_loss(scores, torch.full((2, 2), 0.5), 0.2).item()
    assert even == pytest.approx(sum(0.5 * math.log(0.5 / share) for share in shares.flatten().tolist()) / 2, rel=1e-5)


def test_attention_is_weighted_by_query() -> None:
    memory = tiny_memory()
    _, row = memory.read_rows(*tiny_batch(2))
    single = [attention_mass(memory.model, row.embedded, row.inputs, 80 + i, 81 + i) for i in range(3)]
    weights = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
    mass = attention_mass(memory.model, row.embedded, row.inputs, 80, 83, weights)
    torch.testing.assert_close(mass, sum(weights[:, i, None] * single[i] for i in range(3)))
    torch.testing.assert_close(attention_mass(memory.model, row.embedded, row.inputs, 80, 83), sum(single) / 3)


def test_blocks_count_by_what_their_readers_lost() -> None:
    """Only the first horizon token lost something in the variants: the blocks' shares are those of its own attention."""
    memory = tiny_memory()
    tokens, targets = tiny_batch(2)
    _, row = memory.read_rows(tokens, targets)
    plan = memory.plan
    losses = row.losses.repeat(2, 1)
    losses[:, -plan.horizon - 1] += torch.tensor([0.5, 0.1, 1.5, 0.3])  # variants 0 and 1 of rows 0 and 1: means of 1 and 0.2
    losses[:, -plan.horizon] -= 1.0  # a gain is no loss
    blocks = memory._attention(row, losses)
    first = attention_mass(memory.model, row.embedded, row.inputs, plan.length - plan.horizon - 1, plan.length - plan.horizon)
    expected = first[:, : plan.blocks * 8].unflatten(1, (plan.blocks, 8)).sum(-1) * torch.tensor([[1.0], [0.2]])
    torch.testing.assert_close(blocks, expected)
