"""Suffix-match cache: the longest agreement wins, by a slow reference; weights fit, and a mixture is a distribution."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.suffix_cache import LONGEST, Copies, copies, fit_weights, mixed_nll


def slow(tokens: list[int], target: int) -> tuple[int, float]:
    """The prediction of `target` after `tokens`, as the docstring of the module says it."""
    for length in range(LONGEST, 0, -1):
        if length > len(tokens):
            continue
        suffix = tokens[-length:]
        follows = [tokens[i + length] for i in range(len(tokens) - length) if tokens[i : i + length] == suffix]
        if follows:
            return length, Counter(follows)[target] / len(follows)
    return 0, 0.0


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_copies_are_those_of_a_slow_reference(row: list[int]) -> None:
    tokens, targets = torch.tensor([row[:-1]]), torch.tensor([row[1:]])
    found = copies(tokens, targets)
    for i in range(len(row) - 1):
        length, probability = slow(row[: i + 1], row[i + 1])
        assert found.length[0, i] == length
        assert found.probability[0, i] == pytest.approx(probability)


def test_weights_follow_what_is_right() -> None:
    """Agreements of length 1 are wrong, those of length 2 right: the model keeps the first and the cache gets the second."""
    length = torch.tensor([[1, 2] * 50])
    cache = Copies(length, (length == 2).float())
    nll = torch.full(length.shape, 2.0)
    weights = fit_weights(nll, cache)
    assert weights[0] == 0 and weights[1] < 0.01 and weights[2] > 0.99
    mixed = mixed_nll(nll, cache, weights)
    assert mixed[length == 2].max() < 0.02 and (mixed[length == 1] - 2).abs().max() < 0.02
