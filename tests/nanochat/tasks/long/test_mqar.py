"""Rows of multi-query associative recall."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat.model.cross_entropy import IGNORE
from nanochat.tasks.long.mqar import mqar


def test_what_is_asked_was_paired_before() -> None:
    rows = mqar(50, 256, seed=1, vocab_size=512, pairs=16)
    assert rows.tokens.shape == rows.targets.shape == (50, 256) and rows.tokens.dtype == np.int64
    for tokens, targets, asked, where in zip(rows.tokens, rows.targets, rows.asked, rows.pairs, strict=True):
        value_of = dict(tokens[:32].reshape(16, 2).tolist())
        assert len(value_of) == len(set(value_of.values())) == 16
        assert all(1 <= key < 256 <= value < 512 for key, value in value_of.items())
        judged = np.flatnonzero(targets != IGNORE)
        assert judged.tolist() == sorted(asked.tolist()) and len(judged) == 16 and (judged >= 32).all() and (judged % 2 == 0).all()
        assert [value_of[key] for key in tokens[judged]] == targets[judged].tolist()
        assert tokens[where].tolist() == tokens[asked].tolist()


def test_without_random_filler_nothing_stands_between_the_queries() -> None:
    rows = mqar(20, 64, seed=0, vocab_size=128, pairs=4, random_filler=False)
    rest = rows.tokens[:, 8:].copy()
    np.put_along_axis(rest, rows.asked - 8, 0, axis=1)
    assert not rest.any() and (rows.tokens[:, :8] > 0).all()
    filled = mqar(20, 64, seed=0, vocab_size=128, pairs=4)
    assert (filled.tokens[:, 8:] != 0).mean() > 0.9 and (filled.asked == rows.asked).all()


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_distances_follow_the_power_law(power: float) -> None:
    rows = mqar(20_000, 42, seed=3, vocab_size=64, pairs=1, power=power)
    places = (rows.asked[:, 0] - 2) // 2
    weights = np.arange(1, 21) ** (power - 1)
    assert np.bincount(places, minlength=20) / 20_000 == pytest.approx(weights / weights.sum(), abs=0.015)


def test_the_next_query_is_drawn_from_the_places_that_are_left() -> None:
    rows = mqar(20_000, 10, seed=3, vocab_size=64, pairs=2, power=0.5)
    places = (rows.asked - 4) // 2
    weights = np.arange(1, 4) ** -0.5
    weights /= weights.sum()
    for first in range(3):
        second = np.bincount(places[places[:, 0] == first, 1], minlength=3)
        left = np.where(np.arange(3) == first, 0, weights)
        assert second / second.sum() == pytest.approx(left / left.sum(), abs=0.03)


def test_rows_are_a_function_of_the_seed() -> None:
    first, again, other = (mqar(4, 64, seed, vocab_size=128, pairs=4) for seed in (0, 0, 1))
    assert (first.tokens == again.tokens).all() and (first.tokens != other.tokens).any()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"length": 63}, "length is 63; it must be even"),
        ({"length": 30}, "length is 30; it must be even and at least 32, four tokens for each of 8 pairs"),
        ({"vocab_size": 64}, "vocab_size is 64; it must be above length=64"),
        ({"pairs": 0}, "pairs is 0"),
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"power": 0.0}, "power is 0.0"),
        ({"power": 1.5}, "power is 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        mqar(**({"count": 2, "length": 64, "seed": 0, "vocab_size": 128} | options))
