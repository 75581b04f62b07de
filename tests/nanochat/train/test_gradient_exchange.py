"""What is exchanged in the background changes nothing but the time it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.runtime.lost_peer import LostCollective, failed_collective
from nanochat.train.gradient_exchange import Pending
from tests.helpers import exchange_worker
from tests.helpers.two_processes import in_two_processes


def test_two_processes_train_the_same_whatever_goes_on_in_the_background(root: Path) -> None:
    """One test, so that the processes start once."""
    program = f"from {exchange_worker.__name__} import main; main()"
    first, second = (words[-13:] for words in in_two_processes(root, program))
    plain, overlapped, narrow = ((mine[i : i + 4], theirs[i : i + 4]) for i in (0, 4, 8) for mine, theirs in [(first, second)])
    for mine, theirs in (plain, overlapped, narrow):
        assert mine[0].split(",")[2::3] == theirs[0].split(",")[2::3], "norms differ between the processes"
        assert mine[3] == theirs[3], "not all have the owners' parameters"
        assert mine[0] == plain[0][0] and theirs[0] == plain[1][0], "losses or norms differ from those of an exchange in the foreground"
        assert mine[3] == plain[0][3]
    for mine, theirs in (overlapped, narrow):
        # The first backward tells the order; from then on only the scalars of all layers are complete no earlier than the last table.
        assert mine[1] == theirs[1]
        (before, *early) = map(int, mine[1].split(","))
        assert before == 0 and min(early) > 10
    assert overlapped[0][2] == overlapped[0][3] and narrow[0][2] != narrow[0][3], "rounded parameters did not travel"
    assert narrow[0][2] != narrow[1][2], "an owner's parameters were rounded"
    sums = [[p.grad.sum().item() for p in params] for params in map(exchange_worker.differing, range(exchange_worker.STEPS))]
    expected = ",".join(f"{total:.4f}" for step in sums for total in step)
    assert first[-1] == second[-1] == expected, "backwards of different orders reduced other parameters"


def test_a_failure_in_the_background_is_a_lost_peer() -> None:
    class Failing:
        def wait(self) -> None:
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(LostCollective) as lost:
        Pending("reduce_scatter", Failing()).wait()
    assert failed_collective(lost.value).startswith("reduce_scatter (gradient_exchange.py:")
