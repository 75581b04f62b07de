"""Saves that the disk does not take, and a run that has lost its folder to another."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from nanochat.checkpoint import store
from nanochat.checkpoint.store import CheckpointStore, SaveError
from nanochat.common import UserError
from nanochat.runtime.folder_lock import FILE, hold
from nanochat.tracking.metric_bounds import Alert
from nanochat.tracking.sinks import MetricsLogger, Sink
from nanochat.train.trainer import Trainer
from tests.helpers.trainer_lab import STEPS, Lab, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]


class Alerts(Sink):
    """Keeps the alerts of a run."""

    def __init__(self) -> None:
        self.seen: list[Alert] = []

    def alert(self, alert: Alert) -> None:
        self.seen.append(alert)


def heard(trainer: Trainer) -> Alerts:
    """The alerts of `trainer`, beside its metrics."""
    alerts, open_metrics = Alerts(), trainer.open_metrics
    trainer.open_metrics = lambda resumed: MetricsLogger([*open_metrics(resumed)._sinks, alerts])
    return alerts


def fail_at(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The disk is full whenever one of `steps` is saved."""

    def write_file(path: Path, data: bytes, write: Any = store.write_file) -> dict[str, Any]:
        if path.name == "optimizer.safetensors" and int(path.parent.name[6:].removesuffix(".tmp")) in steps:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(store, "write_file", write_file)


def test_a_save_that_fails_is_an_alert_and_the_next_one_is_tried(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = another(lab, "whole")
    assert whole.trainer(save_every=2).run()
    fail_at(monkeypatch, {2, 4})
    trainer = lab.trainer(save_every=2)
    alerts = heard(trainer)
    assert trainer.run()
    assert [alert.step for alert in alerts.seen] == [2, 4] and trainer.store.steps() == [6, 8]
    assert "No space left on device" in alerts.seen[0].message and "training goes on" in alerts.seen[0].message
    assert lab.figures() == whole.figures() and lab.saved(STEPS) == whole.saved(STEPS)
    assert not list(trainer.store.folder.glob(".*"))


def test_an_older_checkpoint_that_cannot_be_removed_does_not_end_the_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = CheckpointStore._remove

    def refuse_one(self: CheckpointStore, step: int) -> None:
        if self.steps()[-1] == 6:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        remove(self, step)

    monkeypatch.setattr(CheckpointStore, "_remove", refuse_one)
    trainer = lab.trainer(save_every=2)
    trainer.store = CheckpointStore(trainer.store.folder, keep=2)
    alerts = heard(trainer)
    assert trainer.run()
    assert [alert.step for alert in alerts.seen] == [6] and trainer.store.steps() == [6, 8]
    assert alerts.seen[0].message.startswith("step 6 is saved, but an older checkpoint") and "Permission denied" in alerts.seen[0].message


def test_the_last_save_is_tried_twice_and_then_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, {STEPS})
    trainer = lab.trainer(save_every=4)
    alerts = heard(trainer)
    with pytest.raises(SaveError, match=f"cannot save step {STEPS} in .*: No space left on device; make room there"):
        trainer.run()
    assert [alert.step for alert in alerts.seen] == [STEPS] and trainer.store.steps() == [4]
    assert lab.metrics()[-1]["step"] == STEPS, "what was measured is written"


def test_a_run_that_lost_its_folder_writes_no_more(lab: Lab) -> None:
    with hold(lab.folder, print, "") as lock:
        trainer = lab.trainer(save_every=2)
        trainer.lock = lock
        (lab.folder / FILE).write_text(json.dumps({"pid": 7, "host": "far", "since": "then", "kernel": "another"}))
        with pytest.raises(UserError, match="was taken over by process 7 on far"):
            trainer.run()
    assert trainer.store.steps() == [] and lab.metrics()[-1]["step"] == 1
