"""A layered LensNet's teacher: hits of the next queries, which only the teacher sees."""

from __future__ import annotations

import math

import pytest
import torch

from mc.config import SessionConfig
from mc.nets.hits import token_hits
from mc.nets.layered_lens import NEWEST
from mc.train.hit_objective import AHEAD, HitObjective
from mc.train.lens_loss import teacher_loss
from mc.train.lens_objective import METRICS
from mc.train.variant_sampler import Request
from nanochat.profiling.timers import untimed
from tests.helpers.tiny_memory import tiny_batch, tiny_memory

LAYERED = {"gistnet_type": "layered"}


def draw(memory, tokens):
    """(bank, variants) of rows."""
    bank = memory.build_bank(memory.forward_plain(tokens))
    return bank, memory.sampler.sample(Request(0, 3, len(tokens), 60))


def test_the_teacher_is_the_hits_of_the_queries_up_to_the_next_refocus() -> None:
    memory = tiny_memory(gist=LAYERED, session=SessionConfig(mc_infer_refocus_interval=4), mc_lens_decisions=2)
    bank, _ = draw(memory, tiny_batch(2)[0])
    for blocks, decision in zip(memory.plan.far_blocks, memory.plan.decisions, strict=True):
        hits = token_hits(bank.queries, bank.entries.keys[:, :, : memory.plan.length], 0)
        hits = hits[..., : blocks * 8].unflatten(-1, (blocks, 8))
        expected = hits[:, :, :, decision : decision + 4].sum((1, 2, 3, 5))
        torch.testing.assert_close(memory.focus.teacher(bank, blocks), expected)


def test_lensnet_sees_nothing_after_the_decision_and_the_teacher_does() -> None:
    memory, (tokens, _) = tiny_memory(gist=LAYERED, mc_lens_decisions=2), tiny_batch(2)
    for blocks, decision in zip(memory.plan.far_blocks, memory.plan.decisions, strict=True):
        later, before = tokens.clone(), tokens.clone()
        later[:, decision:] = (later[:, decision:] + 5) % 61
        before[:, decision - 1] = (before[:, decision - 1] + 5) % 61
        levels = torch.ones(2, blocks, dtype=torch.int64)
        banks = [draw(memory, rows)[0] for rows in (tokens, later, before)]
        scores, after, other = (memory.focus.scores(bank, levels, untimed) for bank in banks)
        assert torch.equal(scores, after) and not torch.equal(scores, other)
        assert not torch.equal(memory.focus.teacher(banks[0], blocks), memory.focus.teacher(banks[1], blocks))


def test_the_loss_is_the_divergence_in_every_context() -> None:
    memory = tiny_memory(gist=LAYERED, mc_lens_decisions=2, mc_lens_contexts=2)
    bank, variants = draw(memory, tiny_batch(3)[0])
    loss, metrics = memory.focus.loss(bank, variants, 1, untimed)
    assert isinstance(memory.focus, HitObjective) and tuple(metrics) == METRICS
    assert {name for name, value in metrics.items() if math.isnan(value)} == {
        "mc/lens_pairs", "mc/preference_corr_mean", "mc/preference_corr_max", "mc/pref_span_corr"
    }  # fmt: skip
    first, second = memory.plan.far_blocks
    contexts = torch.stack([torch.ones_like(variants.levels[0]), variants.levels[1], variants.levels[2]])
    scores = torch.stack([memory.focus.scores(bank, levels, untimed) for levels in contexts])
    ahead = min(AHEAD * memory.focus.interval, NEWEST)
    early = memory.focus.scores(bank, torch.ones(3, second, dtype=torch.int64), untimed, ahead)[None]
    told = [memory.focus.teacher(bank, first), memory.focus.teacher(bank, second, ahead)]
    mine = [teacher_loss(each, teacher, 1.0) for each, teacher in zip((scores, early), told, strict=True)]
    torch.testing.assert_close(loss, sum(mine) / 2)
    even = sum(teacher_loss(torch.zeros_like(each), teacher, 1.0) for each, teacher in zip((scores, early), told, strict=True))
    torch.testing.assert_close(metrics["mc/lens_explained"], 1 - sum(mine).detach() / even)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in memory.lensnet.parameters())
    assert all(p.grad is None for part in (memory.model, memory.gistnet) for p in part.parameters())


def test_resting_shows_the_last_lesson() -> None:
    memory = tiny_memory(gist=LAYERED, mc_lens_every=2, mc_num_random_variants=1)
    seen = [memory.process_batch(*tiny_batch(2), 0.3).metrics for _ in range(4)]
    losses = [float(metrics["mc/lens_loss"]) for metrics in seen]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    assert {metrics["mc/variants_per_sample"] for metrics in seen} == {1}, "nothing is compared"


def test_it_learns_which_blocks_will_be_read() -> None:
    memory = tiny_memory(gist=LAYERED, initialised=True)
    bank, variants = draw(memory, tiny_batch(8)[0])
    optimizer = torch.optim.Adam(memory.lensnet.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss, metrics = memory.focus.loss(bank, variants, 0, untimed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and metrics["mc/lens_explained"] > 0.1  # a random model looks nearly everywhere
    with pytest.raises(ValueError, match="mc_lens_decisions is 99"):
        tiny_memory(gist=LAYERED, mc_lens_decisions=99)
