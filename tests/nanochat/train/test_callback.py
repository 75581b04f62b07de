"""The hooks that a run calls, in their order, and what they get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.train.callback import Callback, Evaluation, Run
from tests.helpers.trainer_lab import STEPS, Lab, Scripted, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]


class Diary(Callback):
    """Writes down every call under a name of its own."""

    every_steps, name = 3, "diary"

    def __init__(self, pages: list[tuple[Any, ...]], own: str = "a") -> None:
        self.pages, self.own, self.steps = pages, own, 0

    def note(self, *what: Any) -> None:
        self.pages.append((self.own, *what))

    def started(self, run: Run, resumed: int | None) -> None:
        self.note("started", resumed)

    @contextmanager
    def step(self, run: Run) -> Iterator[None]:
        self.note("step", run.state.step)
        self.steps += 1
        yield

    def figures(self) -> dict[str, Any]:
        steps, self.steps = self.steps, 0
        return {f"diary/{self.own}": steps}

    def logged(self, record: dict[str, Any]) -> None:
        self.note("logged", record["step"])

    def due(self, run: Run) -> dict[str, Any]:
        self.note("due", run.state.step)
        return {"diary/loss": run.state.loss.value}

    def phase_ended(self, run: Run, phase: str) -> None:
        self.note("phase", phase)

    def closing(self) -> None:
        self.note("closing")


def test_the_hooks_of_a_run(lab: Lab) -> None:
    pages: list[tuple[Any, ...]] = []
    assert lab.trainer(log_every=4, save_every=6, callbacks=[Diary(pages)]).run()
    steps = [("step", step) for step in range(STEPS)]
    evaluated = [[("due", step), ("phase", "diary"), ("logged", step)] for step in (3, 6, 8)]
    saved = ("phase", "checkpoint")
    expected = [
        *[("started", None), *steps[:3], *evaluated[0], steps[3], ("logged", 4), *steps[4:6], saved, *evaluated[1]],
        *[*steps[6:], saved, ("logged", 8), *evaluated[2], ("phase", "end"), ("closing",)],
    ]
    assert pages == [("a", *page) for page in expected]
    assert [record["diary/a"] for record in lab.metrics() if "diary/a" in record] == [4, 4]


def test_hooks_go_in_order_and_close_in_reverse_also_after_an_error(lab: Lab) -> None:
    def fail(step: int, loss: Tensor) -> Tensor:
        if step == 1:
            raise RuntimeError("broken")
        return loss

    pages: list[tuple[Any, ...]] = []
    lab.wrap = lambda model: Scripted(model, fail)
    with pytest.raises(RuntimeError, match="broken"):
        lab.trainer(callbacks=[Diary(pages), Diary(pages, "b")]).run()
    assert pages[:2] == [("a", "started", None), ("b", "started", None)] and pages[-2:] == [("b", "closing"), ("a", "closing")]
    assert ("b", "step", 1) in pages and ("a", "phase", "end") not in pages


def test_a_resumed_run_starts_there_and_callbacks_change_nothing(lab: Lab) -> None:
    plain, pages = another(lab, "plain"), []
    assert plain.trainer(save_every=4).run() and lab.trainer(save_every=4).run()
    assert lab.trainer(resume="4", callbacks=[Diary(pages), Evaluation(lambda run: {}, -1)]).run()
    assert pages[:2] == [("a", "started", 4), ("a", "logged", 4)] and lab.saved(STEPS) == plain.saved(STEPS)
    assert torch.isfinite(torch.tensor([record["train/loss"] for record in lab.metrics() if "train/loss" in record])).all()
