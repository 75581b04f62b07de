"""What LensNet is held to, by hand-made examples and written out pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mc.config import LensLossConfig
from mc.train.lens_loss import AdvantageNorm, Pairs, make_pairs, policy_scores, preference_loss

ONE = torch.ones(())


def drawn(O: int = 2, B: int = 5, V: int = 4, F: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """(scores [O,B,F], levels [B,V,F], advantages [B,V])."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(O, B, F, generator=generator) * 2 - 1
    return scores, torch.randint(3, (B, V, F), generator=generator), torch.randn(B, V, generator=generator)


def all_pairs(levels: Tensor, advantages: Tensor) -> Pairs:
    return make_pairs(levels, advantages, LensLossConfig(mc_lens_hard_negative_ratio=1.0, mc_max_lens_pairs=100))


def test_policy_scores_by_hand() -> None:
    """a: gist, gist, token; b: token, gist, gist of level 2. From a to b block 0 gains one level of detail and block 2 loses two."""
    scores = torch.tensor([[[0.5, -0.2, 0.3]], [[0.1, 0.4, -0.9]]])
    pairs = all_pairs(torch.tensor([[[1, 1, 0], [0, 1, 2]]]), torch.zeros(1, 2))
    policy = policy_scores(scores, pairs)[:, 0]
    assert policy[0, 0, 1].item() == pytest.approx((0.5 * 1 + 0.3 * -2) / 3)
    assert policy[1, 0, 1].item() == pytest.approx((0.1 * 1 + -0.9 * -2) / 3)
    assert (policy[:, 0, 0] == 0).all() and (policy[:, 1, 1] == 0).all()


def test_policy_scores_are_their_definition() -> None:
    scores, levels, advantages = drawn()
    policy = policy_scores(scores, all_pairs(levels, advantages))
    for context in range(2):
        for row in range(5):
            for a in range(4):
                for b in range(4):
                    gains = [(levels[row, a, f] - levels[row, b, f]).item() for f in range(7)]  # of detail, from a to b
                    total = sum(map(abs, gains))
                    expected = sum(scores[context, row, f].item() * gain for f, gain in enumerate(gains)) / total if total else 0.0
                    assert policy[context, row, a, b].item() == pytest.approx(expected, abs=1e-6)


def test_the_way_back_is_the_opposite() -> None:
    """So no scores welcome every move: wanting change as such must not satisfy pairs."""
    scores, levels, advantages = drawn()
    policy = policy_scores(scores, all_pairs(levels, advantages))
    torch.testing.assert_close(policy, -policy.transpose(2, 3))
    assert policy.abs().max() <= 1  # a mean of scores


def test_pairs_lead_to_the_better_layout() -> None:
    _, levels, advantages = drawn()
    levels[0, 1] = levels[0, 0]  # a pair without a difference
    pairs = all_pairs(levels, advantages)
    for row in range(5):
        for a in range(4):
            for b in range(4):
                gap = advantages[row, b] - advantages[row, a]
                assert pairs.gap[row, a, b] == gap
                assert pairs.kept[row, a, b] == ((gap > 0) and not (row == 0 and {a, b} <= {0, 1}))


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 1.0])
def test_the_smallest_gaps_of_the_batch_are_dropped(ratio: float) -> None:
    _, levels, advantages = drawn()
    advantages[3] *= 1e-3  # a row in which nothing matters
    pairs = make_pairs(levels, advantages, LensLossConfig(mc_lens_hard_negative_ratio=ratio, mc_max_lens_pairs=100))
    gaps = pairs.gap[pairs.gap > 0]  # 6 of each row
    assert pairs.kept.sum() == math.ceil(ratio * len(gaps)) == math.ceil(ratio * 30)
    kept = pairs.gap[pairs.kept]
    assert torch.equal(kept.sort().values, gaps.sort().values[-len(kept) :])
    assert ratio == 1 or not pairs.kept[3].any()


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_row_keeps_its_largest_gaps_and_no_more_than_allowed(most: int) -> None:
    _, levels, advantages = drawn()
    pairs = make_pairs(levels, advantages, LensLossConfig(mc_lens_hard_negative_ratio=1.0, mc_max_lens_pairs=most))
    for gap, kept in zip(pairs.gap, pairs.kept, strict=True):
        assert torch.equal(gap[kept].sort().values, gap[gap > 0].sort().values[-most:])


def test_layouts_that_serve_alike_make_no_pair_and_no_nan() -> None:
    scores, levels, _ = drawn()
    scores.requires_grad_()
    pairs = make_pairs(levels, torch.zeros(5, 4), LensLossConfig())
    assert not pairs.kept.any()
    loss = preference_loss(pairs, policy_scores(scores, pairs), ONE, LensLossConfig())
    assert loss == 0
    loss.backward()
    assert not scores.grad.any()


def test_the_loss_of_pairs_is_its_definition() -> None:
    scores, levels, advantages = drawn()
    config = LensLossConfig(mc_lens_temperature=0.3)
    pairs = make_pairs(levels, advantages, config)
    policy = policy_scores(scores, pairs)
    loss = preference_loss(pairs, policy, torch.tensor(0.7), config)
    preference = total = 0.0
    for row, a, b in pairs.kept.nonzero().tolist():
        weight = math.tanh(pairs.gap[row, a, b] / 0.7)
        for p in policy[:, row, a, b].tolist():
            preference += weight * math.log1p(math.exp(-p / 0.3))
            total += weight
    assert loss.item() == pytest.approx(preference / total, rel=1e-5)


def test_the_loss_falls_as_scores_ask_for_what_served_better() -> None:
    """One pair: b, which has block 0 raw where a has block 1, is better. LensNet should ask for block 0, and give block 1."""
    pairs = all_pairs(torch.tensor([[[1, 0], [0, 1]]]), torch.tensor([[0.0, 1.0]]))

    def loss(scores: Tensor) -> Tensor:
        return preference_loss(pairs, policy_scores(scores, pairs), ONE, LensLossConfig())

    scores = torch.zeros(2, 1, 2, requires_grad=True)
    loss(scores).backward()
    for block_0, block_1 in scores.grad[:, 0]:
        assert block_0 < 0 < block_1 and torch.equal(block_0, -block_1)
    worse, same, better = (loss(torch.tensor([[[step, -step]]])).item() for step in (-0.2, 0.0, 0.2))
    assert worse > same > better


def test_running_mean_and_deviation_of_advantages() -> None:
    norm = AdvantageNorm(0.9)
    batches = [torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) * 0.3 + 2 for seed in range(5)]
    for batch in batches:
        norm.update(batch)
    weights = torch.tensor([0.9 ** (4 - i) for i in range(5)])
    weights /= weights.sum()
    mean = sum(w * b.mean() for w, b in zip(weights, batches, strict=True))
    square = sum(w * b.square().mean() for w, b in zip(weights, batches, strict=True))
    torch.testing.assert_close(norm.mean, mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.deviation, (square - mean**2).sqrt(), rtol=1e-3, atol=0)
    first = AdvantageNorm(0.9)
    first.update(batches[0])
    torch.testing.assert_close(first.deviation, batches[0].std(correction=0), rtol=1e-3, atol=0)  # not that of a start from zero


WEIGHTS = [f"mc_lens_{name}_weight" for name in ("occurrence", "attention")]


BAD = [(name, value) for name in ("mc_lens_loss_weight", *WEIGHTS) for value in (-0.1, math.inf, math.nan)] + [
    ("mc_lens_temperature", 0.0),
    ("mc_lens_adv_norm_beta", 1.0),
    ("mc_lens_hard_negative_ratio", 0.0),
    ("mc_lens_hard_negative_ratio", 1.1),
    ("mc_max_lens_pairs", 0),
]


@pytest.mark.parametrize(("knob", "value"), BAD)
def test_bad_knobs_are_refused_by_name(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{knob} is "):
        LensLossConfig(**{knob: value})
