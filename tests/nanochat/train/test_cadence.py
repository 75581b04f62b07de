"""Cadences in tokens."""

from hypothesis import given
from hypothesis import strategies as st

from nanochat.train.schedule import passes_multiple

COUNT = st.integers(0, 10**7)


@given(st.integers(1, 10**5), COUNT, st.integers(0, 10**4))
def test_due_if_a_multiple_lies_in_the_step(every: int, before: int, length: int) -> None:
    after = before + length
    assert passes_multiple(every, before, after) == any(n % every == 0 for n in range(before + 1, after + 1))


@given(st.integers(1, 50), st.sampled_from([1, 2, 4, 8]), st.integers(1, 500))
def test_the_same_points_at_every_step_size(every_steps: int, divisor: int, steps: int) -> None:
    tokens_per_step = 8192
    every, small, total = every_steps * tokens_per_step, tokens_per_step // divisor, steps * tokens_per_step
    fired = [n + tokens_per_step for n in range(0, total, tokens_per_step) if passes_multiple(every, n, n + tokens_per_step)]
    assert fired == [n + small for n in range(0, total, small) if passes_multiple(every, n, n + small)]


def test_only_multiples_behind_the_start_count() -> None:
    assert not passes_multiple(100, 0, 0)
    assert not passes_multiple(100, 100, 199)
    assert passes_multiple(100, 99, 100)
    assert not passes_multiple(100, -100, 0), "the boundary of a run that has not begun"
