"""The trainer on rows that are partly learned, weighed, or made at their turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanochat.data.rows import Loader, inputs_and_targets
from tests.helpers.trainer_lab import STEPS, Lab, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]


class Masked(Loader):
    """The rows of another loader, of which the later in a step have fewer tokens to learn, and the last of all but one none."""

    def __init__(self, loader: Loader, weighted: bool) -> None:
        self.loader, self.weighted, self.seq_len, self.fingerprint = loader, weighted, loader.seq_len, "masked"
        self.ahead = 0 if weighted else 2

    def rows(self, a: int, b: int) -> np.ndarray:
        rows = self.loader.rows(a, b)
        keep = np.arange(rows.shape[1]) < 32 - 6 * (np.arange(a, b) % 8)[:, None]
        return np.where(keep, rows, ~rows)

    def weights(self, a: int, b: int) -> np.ndarray | None:
        return np.linspace(-1, 2, b - a, dtype=np.float32) if self.weighted else None

    def epoch_of(self, row: int) -> int:
        return 0


@pytest.mark.parametrize("weighted", [False, True])
def test_every_target_of_a_step_counts_alike_whatever_the_micro_batches(lab: Lab, weighted: bool) -> None:
    lab.loader, figures = Masked(lab.loader, weighted), []
    for rows in (8, 2, 1):
        here = another(lab, f"rows{rows}")
        trainer = here.trainer(rows)
        trainer.run()
        figures.append([(record["train/loss"], record["train/grad_norm"]) for record in here.metrics()])
    for those in figures[1:]:
        assert np.array(those) == pytest.approx(np.array(figures[0]), rel=1e-3)
    model = lab.trainer().objective.model
    tokens, targets = inputs_and_targets(torch.from_numpy(lab.loader.rows(0, 8).astype(np.int64)))
    losses = model(tokens, targets, "none").detach()
    weights = torch.from_numpy(lab.loader.weights(0, 8)) if weighted else torch.ones(8)
    expected = (losses * weights[:, None]).sum() / (targets >= 0).sum()
    assert figures[0][0][0] == pytest.approx(expected.item(), rel=1e-5)


def test_rows_that_depend_on_the_weights_are_asked_for_at_their_turn(lab: Lab) -> None:
    class Live(Masked):
        def rows(self, a: int, b: int) -> np.ndarray:
            asked.append((a // 8, trainer.state.step))
            return super().rows(a, b)

    asked: list[tuple[int, int]] = []
    lab.loader = Live(lab.loader, weighted=True)
    trainer = lab.trainer()
    trainer.run()
    assert asked == [(step, step) for step in range(STEPS)]
