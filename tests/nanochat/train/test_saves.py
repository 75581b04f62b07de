"""Saves of a run on a slow disk: training goes on, the next save waits, and the last one is complete before the run ends."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from nanochat.checkpoint import store
from nanochat.checkpoint.background import BackgroundSaves, Ended
from nanochat.common import UserError
from nanochat.tracking.sinks import MetricsLogger, Sink
from nanochat.train.callback import Callback, Run
from nanochat.train.trainer import Trainer
from tests.helpers.trainer_lab import STEPS, Lab, Scripted, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has taken nothing by the time that somebody waits for a save."""
    waited_for, write, wait = threading.Event(), store.write_file, BackgroundSaves.wait

    def write_file(path: Path, data: Any) -> dict[str, Any]:
        assert waited_for.wait(60)
        return write(path, data)

    def patient(saves: BackgroundSaves) -> Ended | None:
        waited_for.set()
        ended = wait(saves)
        waited_for.clear()
        return ended

    monkeypatch.setattr(store, "write_file", write_file)
    monkeypatch.setattr(BackgroundSaves, "wait", patient)


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
    first, waited, second = said.lines
    written = r"step {}: checkpoint written in \d+\.\d s \(0\.5 MB by this process\), training waited \d+\.\d s"
    assert re.fullmatch(written.format(4), first) and re.fullmatch(written.format(8), second)
    assert re.fullmatch(r"step 8: waited \d+\.\d s for the checkpoint of step 4", waited)
    assert lab.trainer(resume="4", save_every=4).run(), "the steps after the copy have not reached it"
    assert lab.saved(STEPS) == whole.saved(STEPS) and lab.figures() == whole.figures()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_save_ends_with_it_and_with_the_last_step_saved(lab: Lab, slow_disk: None, number: int) -> None:
    def at(step: int, loss: Tensor) -> Tensor:
        if step == 5 and not trainer.stop:
            os.kill(os.getpid(), number)
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


def test_torchrun_that_may_kill_a_save_is_named_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def warnings() -> list[str]:
        trainer = another(lab, str(len(list(lab.folder.iterdir())))).trainer(save_every=3)
        said = listen(trainer)
        trainer.run()
        return [line for line in said.lines if "--shutdown-timeout" in line]

    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0.0001")
    assert warnings() == [], "no torchrun"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    (line,) = warnings()
    assert line.startswith("stopping may take ") and "kills its processes 0.0001 s after SIGTERM, unless its --shutdown-timeout" in line
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert warnings() == [], "it gives 30 s"
