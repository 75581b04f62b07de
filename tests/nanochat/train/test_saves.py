"""Saves of a run on a slow disk: training goes on, the next save waits, and the last one is complete before the run ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from nanochat.checkpoint import store
from nanochat.common import UserError
from nanochat.tracking.sinks import MetricsLogger, Sink
from nanochat.train.callback import Callback, Run
from nanochat.train.trainer import Trainer
from tests.helpers.trainer_lab import STEPS, Lab, Scripted, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]

SLOW = 0.4  # seconds to write a file of tensors


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes its time."""

    def write_file(path: Path, data: Any, real: Any = store.write_file) -> dict[str, Any]:
        time.sleep(SLOW * (path.suffix == ".safetensors"))
        return real(path, data)

    monkeypatch.setattr(store, "write_file", write_file)


class Said(Sink):
    """Keeps the lines of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def listen(trainer: Trainer) -> Said:
    """The lines of `trainer`, beside its metrics."""
    said, open_metrics = Said(), trainer.open_metrics
    trainer.open_metrics = lambda resumed: MetricsLogger([*open_metrics(resumed)._sinks, said])
    return said


class Watch(Callback):
    """Notes at each step which checkpoints there are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, {}

    def step(self, run: Run) -> Any:
        self.seen[run.state.step] = {path.name for path in self.folder.glob("step_*")}
        return super().step(run)


def test_training_goes_on_while_a_save_is_written(lab: Lab, slow_disk: None) -> None:
    whole = another(lab, "whole")
    assert whole.trainer(save_every=100).run()
    watch = Watch(lab.folder / "checkpoints")
    trainer = lab.trainer(save_every=4, callbacks=[watch])
    said = listen(trainer)
    assert trainer.run()
    assert watch.seen[STEPS - 1] == set(), "the steps after the save of step 4 have waited for it"
    assert trainer.store.steps() == [4, 8] and [trainer.store.verify(step) for step in (4, 8)] == [None, None]
    assert lab.saved(STEPS) == whole.saved(STEPS) and lab.figures() == whole.figures()
    waited, *written = (line for line in said.lines if "waited" in line and not line.startswith("step 4: checkpoint"))
    assert waited.startswith("step 8: waited ") and waited.endswith(" s for the checkpoint of step 4"), said.lines
    assert len(written) == 1 and written[0].startswith("step 8: checkpoint written in 1.")
    (first,) = (line for line in said.lines if line.startswith("step 4: checkpoint written in 1."))
    assert first.endswith("MB by this process), training waited 0.0 s")


def test_what_was_copied_in_training_is_resumed_exactly(lab: Lab, slow_disk: None) -> None:
    """A save that later steps did not reach: the run continues from it bit for bit."""
    whole = another(lab, "whole")
    assert whole.trainer(save_every=3).run() and lab.trainer(save_every=3).run()
    resumed = lab.trainer(resume="3", save_every=3)
    assert resumed.run()
    assert lab.saved(STEPS) == whole.saved(STEPS) and lab.figures() == whole.figures()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_save_ends_with_it_and_with_the_last_step_saved(lab: Lab, slow_disk: None, number: int) -> None:
    def at(step: int, loss: Tensor) -> Tensor:
        if step == 5 and not trainer.stop:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        return loss

    lab.wrap = lambda model: Scripted(model, at)
    trainer = lab.trainer(save_every=4)
    assert not trainer.run()
    assert trainer.store.steps() == [4, trainer.state.step] and trainer.state.step < STEPS
    assert [trainer.store.verify(step) for step in trainer.store.steps()] == [None, None]
    assert not list(trainer.store.folder.glob(".*"))


def test_an_error_in_training_leaves_the_save_that_was_begun(lab: Lab, slow_disk: None) -> None:
    def at(step: int, loss: Tensor) -> Tensor:
        if step == 5:
            raise UserError("out of luck")
        return loss

    lab.wrap = lambda model: Scripted(model, at)
    trainer = lab.trainer(save_every=4)
    with pytest.raises(UserError, match="out of luck"):
        trainer.run()
    assert trainer.store.steps() == [4] and trainer.store.verify(4) is None


def test_torchrun_that_may_kill_a_save_is_named_once(lab: Lab, slow_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def warnings() -> list[str]:
        trainer = another(lab, str(len(list(lab.folder.iterdir())))).trainer(save_every=3)
        said = listen(trainer)
        trainer.run()
        return [line for line in said.lines if "--shutdown-timeout" in line]

    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "2")
    assert warnings() == [], "no torchrun"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert warnings() == [
        "stopping may take 2 s, for two saves; torchrun kills its processes 2 s after SIGTERM, unless its --shutdown-timeout is longer"
    ]
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert warnings() == [], "it gives 30 s"
