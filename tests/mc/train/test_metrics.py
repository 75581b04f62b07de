"""Metrics against numpy and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mc.train.metrics import by_level, correlation, preference_correlation, span_correlation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_losses_by_level() -> None:
    losses, reference = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 1, 1], [2, 2, 3]])
    lod = torch.tensor([[0, 2, 0], [2, 2, 0]])
    mean, delta = by_level(losses, reference, lod, torch.ones_like(lod, dtype=torch.bool), 3)
    assert mean[[0, 2]].tolist() == pytest.approx([10 / 3, 11 / 3]) and delta[[0, 2]].tolist() == pytest.approx([5 / 3, 2])
    assert mean[[1, 3]].isnan().all() and delta[[1, 3]].isnan().all()
    counts = torch.tensor([[True, False, True], [True, False, False]])
    mean, delta = by_level(losses, reference, lod, counts, 3)
    assert mean[[0, 2]].tolist() == pytest.approx([2, 4]) and delta[[0, 2]].tolist() == pytest.approx([1, 2])


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_correlation_is_pearson_s(offset: float) -> None:
    a, b = normal(4, 30) + offset, normal(4, 30, seed=1)
    b += 0.5 * (a - offset)
    mask = normal(4, 30, seed=2) > -0.5
    for row in range(4):
        expected = np.corrcoef(a[row].double(), b[row].double())[0, 1]
        assert correlation(a, b)[row].item() == pytest.approx(expected, abs=1e-3 if offset else 1e-5)
        kept = np.corrcoef(a[row, mask[row]].double(), b[row, mask[row]].double())[0, 1]
        assert correlation(a, b, mask)[row].item() == pytest.approx(kept, abs=1e-3 if offset else 1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3])
def test_what_does_not_vary_has_no_correlation(value: float) -> None:
    b = normal(7)
    assert correlation(torch.full((7,), value), b).isnan() and correlation(b, torch.full((7,), value)).isnan()
    mixed, mask = torch.full((7,), value), torch.ones(7, dtype=torch.bool)
    mixed[3], mask[3] = 9.0, False
    assert correlation(mixed, b, mask).isnan()
    assert correlation(b, b, torch.zeros(7, dtype=torch.bool)).isnan()


def test_preferences_that_foresee_the_losses_correlate_at_minus_one() -> None:
    advantages, levels = normal(3, 4), torch.randint(2, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    levels[0, 1] = levels[0, 0]
    gain = advantages[:, None] - advantages[:, :, None]  # of going from a to b
    gain[0, 0, 1] = gain[0, 1, 0] = 1e6  # no pair: the layouts are one
    mean, most = preference_correlation(gain, advantages, levels)
    assert mean.item() == pytest.approx(-1, abs=1e-5) and most.item() == pytest.approx(-1, abs=1e-5)
    mean, most = preference_correlation(torch.cat([gain[1:2], -gain[2:]]), advantages[1:], levels[1:])
    assert mean.item() == pytest.approx(0, abs=1e-5) and most.item() == pytest.approx(1, abs=1e-5)


def test_rows_without_preferences_do_not_count() -> None:
    advantages, levels = normal(2, 4), torch.randint(2, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    policy = advantages[:, None] - advantages[:, :, None]
    policy[1] = 0
    mean, most = preference_correlation(policy, advantages, levels)
    assert mean.item() == most.item() == pytest.approx(-1, abs=1e-5)
    mean, most = preference_correlation(torch.zeros(2, 4, 4), advantages, levels)
    assert math.isnan(mean) and math.isnan(most)


def test_span_correlation_of_scores_that_know_what_each_block_is_worth() -> None:
    """The advantage of a layout is the sum of what its raw blocks are worth; every layout of three of six blocks is there."""
    worth = torch.tensor([3.0, 0, -1, 0.5, 0, 0])
    masks = [[b >> i & 1 for i in range(6)] for b in range(64) if b.bit_count() == 3]
    levels = 1 - torch.tensor(masks)[None]
    advantages = (1 - levels[0]).float() @ worth
    scores = worth[None]
    assert span_correlation(scores, levels, advantages[None]).item() == pytest.approx(1, abs=1e-5)
    assert span_correlation(-scores, levels, advantages[None]).item() == pytest.approx(-1, abs=1e-5)
    assert span_correlation(torch.zeros_like(scores), levels, advantages[None]).isnan()
