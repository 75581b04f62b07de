import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.train.schedule import Cadence, every_steps_to_tokens

COUNT = st.integers(0, 10**7)


@given(st.integers(1, 10**5), COUNT, st.integers(0, 10**4))
def test_due_where_a_multiple_lies_in_the_step(every: int, before: int, length: int) -> None:
    after = before + length
    assert Cadence(every).due(before, after) == any(n % every == 0 for n in range(before + 1, after + 1))


@given(st.integers(1, 50), st.integers(1, 64), st.integers(1, 8))
def test_steps_of_any_size_fire_at_the_same_tokens(every_steps: int, tokens_per_step: int, split: int) -> None:
    tokens_per_step *= split
    cadence = Cadence(every_steps_to_tokens(every_steps, tokens_per_step))
    total = 4 * every_steps * tokens_per_step
    small = tokens_per_step // split
    fired = [n + tokens_per_step for n in range(0, total, tokens_per_step) if cadence.due(n, n + tokens_per_step)]
    assert fired == [n + small for n in range(0, total, small) if cadence.due(n, n + small)]
    assert len(fired) == 4


@pytest.mark.parametrize("every", [-1, 0])
def test_off(every: int) -> None:
    assert not Cadence(every).due(0, 10**9)
    assert not Cadence(every_steps_to_tokens(every, 8192)).due(0, 10**9)


def test_never_at_the_start() -> None:
    assert not Cadence(100).due(0, 0)
    assert not Cadence(100).due(100, 199)
    assert Cadence(100).due(99, 100)


@pytest.mark.parametrize("call", [lambda: Cadence(-2), lambda: every_steps_to_tokens(-2, 10), lambda: every_steps_to_tokens(5, 0)])
def test_bad_values_are_refused(call) -> None:
    with pytest.raises(ValueError, match="-1|token"):
        call()
