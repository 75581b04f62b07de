"""LensNet in training: what it sees, what teaches it, what it remembers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mc.nets.attention_probe import attention_mass
from mc.nets.lensnet import bank_keys
from mc.train.lens_loss import teacher_loss
from mc.train.lens_objective import METRICS
from mc.train.lens_teachers import attention_teacher, excess
from mc.train.variant_sampler import Request
from nanochat.profiling.timers import untimed
from tests.helpers.tiny_memory import tiny_batch, tiny_memory


def draw(memory, rows: int = 3):
    """(bank, variants, entries) of random rows."""
    bank = memory.build_bank(memory.forward_plain(tiny_batch(rows)[0]))
    variants = memory.sampler.sample(Request(0, 3, rows, 60))
    return bank, variants, memory.forward_layouts(bank, variants.layout).entries.x


def attention_of(memory, tokens: Tensor, targets: Tensor, change):
    """(plain rows, the attention teacher where the losses of two variants of each row are `change` of those of the rows)."""
    plain = memory.forward_plain(tokens)
    losses = memory.model.loss(plain.hidden, targets, "none")
    return plain, attention_teacher(memory.model, plain.embedded, plain.inputs, losses, change(losses.repeat(2, 1)), memory.plan, untimed)


def test_a_teacher_changes_the_loss_and_reaches_lensnet() -> None:
    told, losses = torch.rand(1, 3, 10, generator=torch.Generator().manual_seed(5)), []
    for teachers in ([], [(0.7, told)]):
        memory = tiny_memory(mc_max_lod=1)
        bank, variants, entries = draw(memory)
        advantages = torch.randn(variants.levels.shape[:2], generator=torch.Generator().manual_seed(6))
        loss, metrics = memory.focus.loss(bank, entries, variants, 1, advantages, teachers)
        assert tuple(metrics) == METRICS
        nothing = {name for name, value in metrics.items() if not math.isfinite(value)}
        assert nothing == (set() if teachers else {"mc/lens_explained"}), "without teachers there is nothing to explain"
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in memory.focus.lensnet.parameters())
        assert all(p.grad is None for p in memory.gistnet.parameters())  # what a gist holds is not LensNet's to decide
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) > 1e-6


def test_resting_is_zero_and_touches_each_parameter() -> None:
    memory = tiny_memory(mc_max_lod=1)
    loss, metrics = memory.focus.idle()
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in memory.focus.lensnet.parameters())
    assert tuple(metrics) == METRICS and all(math.isnan(value) for value in metrics.values())
    bank, variants, entries = draw(memory)
    _, learned = memory.focus.loss(bank, entries, variants, 0, torch.randn(variants.levels.shape[:2]), [])
    assert memory.focus.idle()[1] is learned


def test_teacher_loss_by_hand() -> None:
    scores = torch.tensor([[[0.5, -0.5], [0.9, 0.1]]])  # one context of two rows
    told = torch.tensor([[0.0, 3.0], [0.0, 0.0]])  # of the second row nothing
    expected = -math.log(math.exp(-0.5 / 0.2) / (math.exp(0.5 / 0.2) + math.exp(-0.5 / 0.2)))
    assert teacher_loss(scores, told, 0.2).item() == pytest.approx(expected, rel=1e-5)
    assert teacher_loss(scores, torch.zeros(2, 2), 0.2).item() == 0
    shares = (scores[0] / 0.2).softmax(-1)
    assert teacher_loss(scores, shares * torch.tensor([[3.0], [0.1]]), 0.2).item() == pytest.approx(0, abs=1e-6), "perfect"
    even = teacher_loss(scores, torch.full((2, 2), 0.5), 0.2).item()
    assert even == pytest.approx(sum(0.5 * math.log(0.5 / share) for share in shares.flatten().tolist()) / 2, rel=1e-5)


def test_explained_is_what_scores_know_of_what_teachers_say() -> None:
    memory = tiny_memory(mc_max_lod=1)
    bank, variants, entries = draw(memory)
    scores = torch.randn(variants.levels.shape[1:], generator=torch.Generator().manual_seed(5))
    memory.focus.scores = lambda *_, **__: scores[None]
    memory.focus.coarse_scores = lambda *_, **__: scores
    shares = (scores / memory.config.lens_loss.mc_lens_temperature).softmax(-1)

    def explained(*told: tuple[float, torch.Tensor]) -> float:
        return float(memory.focus.loss(bank, entries, variants, 0, torch.zeros(variants.levels.shape[:2]), told)[1]["mc/lens_explained"])

    assert explained((1.0, shares[None])) == pytest.approx(1, abs=1e-5), "it is what they say"
    assert explained((1.0, shares.roll(1, -1)[None])) < 0, "worse than to say nothing"
    half, block = math.log(shares.shape[-1] / 2), torch.zeros_like(shares)
    block[:, :2] = 1.0
    ours = -shares[:, :2].log().mean() - math.log(2)
    assert explained((2.0, block[None])) == pytest.approx(1 - float(ours) / half, abs=1e-5)
    assert math.isnan(explained((1.0, torch.zeros_like(shares)[None]))), "nothing is said"


def test_teachers_weigh_and_decision_points_are_averaged() -> None:
    focus, g = tiny_memory().focus, torch.Generator().manual_seed(5)
    scores, told = [torch.randn(2, 3, 6, generator=g), torch.randn(1, 3, 4, generator=g)], torch.rand(2, 2, 3, 6, generator=g)
    ours, even = focus._teacher_losses(scores, [(2.0, told[0]), (0.5, told[1])])
    each = [[teacher_loss(s, there[..., : s.shape[-1]], 0.1) for s, there in zip(scores, teacher, strict=True)] for teacher in told]
    torch.testing.assert_close(ours, 2.0 * sum(each[0]) / 2 + 0.5 * sum(each[1]) / 2)
    silent = focus._teacher_losses([torch.zeros_like(s) for s in scores], [(2.0, told[0]), (0.5, told[1])])
    torch.testing.assert_close(torch.stack([*silent]), torch.stack([even, even]))


def test_attention_counts_by_what_is_above_an_even_share() -> None:
    attention = torch.tensor([[2.3, 1.6, 2.1, 1.6], [0.5, 0.5, 0.5, 0.5]])  # means of 1.9 and 0.5
    torch.testing.assert_close(excess(attention), torch.tensor([[0.4, 0.0, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_attention_is_weighted_by_query() -> None:
    memory = tiny_memory()
    row = memory.forward_plain(tiny_batch(2)[0])
    single = attention_mass(memory.model, row.embedded, row.inputs, torch.arange(80, 83)[:, None])  # (3, B, T)
    weights = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
    together = torch.tensor([[80, 81, 82], [82, 80, 80]])
    mass = attention_mass(memory.model, row.embedded, row.inputs, together, torch.stack([weights, weights.flip(1)]))
    torch.testing.assert_close(mass[0], sum(weights[:, i, None] * single[i] for i in range(3)))
    expected = weights[:, 2, None] * single[2] + (weights[:, 0, None] + weights[:, 1, None]) * single[0]
    torch.testing.assert_close(mass[1], expected)
    torch.testing.assert_close(attention_mass(memory.model, row.embedded, row.inputs, together)[0], single.mean(0))


def test_blocks_count_by_what_their_readers_lost() -> None:
    """Only the first horizon token lost something in the variants: the blocks' shares are those of its own attention."""
    memory = tiny_memory()
    plan = memory.plan

    def change(losses: Tensor) -> Tensor:
        losses[:, -plan.horizon - 1] += torch.tensor([0.5, 0.1, 1.5, 0.3])  # variants 0 and 1 of rows 0 and 1: means of 1 and 0.2
        losses[:, -plan.horizon] -= 1.0  # a gain is no loss
        return losses

    row, (blocks,) = attention_of(memory, *tiny_batch(2), change)
    (first,) = attention_mass(memory.model, row.embedded, row.inputs, torch.tensor([[plan.length - plan.horizon - 1]]))
    paid = first[:, : plan.blocks * 8].unflatten(1, (plan.blocks, 8)).sum(-1) * torch.tensor([[1.0], [0.2]])
    torch.testing.assert_close(blocks, (paid - paid.mean(-1, keepdim=True)).clamp(min=0))


def test_lensnet_learns_at_earlier_decision_points_too() -> None:
    """Each is told what the tokens after it attended to, and LensNet sees no more there than what came before it."""
    memory = tiny_memory(mc_max_lod=1, mc_lens_decisions=3, mc_horizon=8)
    plan, (tokens, targets) = memory.plan, tiny_batch(3)
    assert len(plan.far_blocks) == 3 and plan.far_blocks[0] == plan.blocks > plan.far_blocks[1] > plan.far_blocks[2] > 0
    memory.focus.lensnet.c_score.weight.data.normal_(generator=torch.Generator().manual_seed(7))
    row, attention = attention_of(memory, tokens, targets, lambda losses: losses + 1.0)
    for blocks, t, paid in zip(plan.far_blocks, plan.decisions, attention, strict=True):
        assert t == plan.length - 8 - (plan.blocks - blocks) * 8
        (told,) = attention_mass(memory.model, row.embedded, row.inputs, torch.arange(t - 1, t + 7)[None])
        far = 8 * told[:, : blocks * 8].unflatten(1, (blocks, 8)).sum(-1)
        torch.testing.assert_close(paid[:, :blocks], (far - far.mean(-1, keepdim=True)).clamp(min=0))
        assert not paid[:, blocks:].any()
        later, before = tokens.clone(), tokens.clone()
        later[:, t:] = (later[:, t:] + 5) % 61
        before[:, t - 1] = (before[:, t - 1] + 5) % 61
        banks = [memory.build_bank(memory.forward_plain(x)) for x in (tokens, later, before)]
        scores, after, other = (memory.focus.coarse_scores(bank, bank_keys(memory.lensnet, bank), blocks) for bank in banks)
        assert scores.shape == (3, blocks) and torch.equal(scores, after) and not torch.equal(scores, other)
    bank, variants, entries = draw(memory)
    advantages = torch.zeros(variants.levels.shape[:2])

    def loss(*told: Tensor) -> float:
        return memory.focus.loss(bank, entries, variants, 0, advantages, [(1.0, each) for each in told])[0].item()

    mine = [loss(attention), loss(attention.flip(2)), loss(attention, attention.flip(2))]
    moved = attention.clone()
    moved[2, :, : plan.far_blocks[2]] = moved[2, :, : plan.far_blocks[2]].flip(1)
    assert len({*mine, loss(moved)}) == 4, "every point and teacher counts"
    assert mine[2] == pytest.approx(mine[0] + mine[1], rel=1e-5), "advantages are all alike: there are no pairs"
    with pytest.raises(ValueError, match="mc_lens_decisions is 99"):
        tiny_memory(mc_lens_decisions=99)
