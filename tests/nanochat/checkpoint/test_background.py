"""Saves in the background: what they write is the moment of the snapshot, and what they meet is told."""

from __future__ import annotations

import errno
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store as store_module
from nanochat.checkpoint.background import BackgroundSaves
from nanochat.checkpoint.processes import ALONE
from nanochat.checkpoint.snapshot import Snapshot
from nanochat.checkpoint.store import CheckpointStore, SaveError
from tests.helpers.checkpoints import same, state


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is set."""
    event, real = threading.Event(), store_module.write_file

    def write_file(path: Path, data: Any) -> dict[str, Any]:
        assert event.wait(20)
        return real(path, data)

    monkeypatch.setattr(store_module, "write_file", write_file)
    return event


def test_a_save_is_of_the_moment_of_its_snapshot(tmp_path: Path, gate: threading.Event) -> None:
    store = CheckpointStore(tmp_path)
    saves, tensors = BackgroundSaves(store, ALONE), state(3)
    snapshot = store.snapshot(3, tensors, {"step": 3})
    size = snapshot.bytes
    saves.begin(snapshot)
    assert saves.ended() is None and store.steps() == []
    for named in tensors.values():
        for tensor in named.values():
            tensor.zero_()
    gate.set()
    ended = saves.wait()
    assert (ended.step, ended.bytes, ended.error) == (3, size, None) and ended.seconds > 0
    assert same(store.load(3).tensors, state(3)) and store.load(3).meta == {"step": 3}
    assert saves.ended() is None and saves.wait() is None, "it is told once"
    assert snapshot.bytes == 0, "what is written is let go"


def test_an_error_is_told_and_the_next_save_goes_on(tmp_path: Path, gate: threading.Event) -> None:
    store = CheckpointStore(tmp_path / "store")
    saves = BackgroundSaves(store, ALONE)
    gate.set()
    (tmp_path / "store").write_text("a file in the way")
    saves.begin(store.snapshot(1, state(1), {}))
    ended = saves.wait()
    assert isinstance(ended.error, SaveError) and "cannot save step 1" in str(ended.error)
    (tmp_path / "store").unlink()
    saves.begin(store.snapshot(2, state(2), {}))
    assert saves.wait().error is None and store.steps() == [2]
    saves.begin(Snapshot(3, {"model.safetensors": [1, 2]}, []))  # a defect, whose error is not the disk's
    assert isinstance(saves.wait().error, TypeError) and store.steps() == [2]


def test_a_save_that_failed_keeps_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = CheckpointStore(tmp_path), store_module.write_file
    saves, snapshot = BackgroundSaves(store, ALONE), store.snapshot(1, state(1), {})
    copies = [weakref.ref(data) for data in snapshot.files.values() if not isinstance(data, bytes)]

    def full(target: Path, data: Any) -> dict[str, Any]:
        if target.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(target, data)

    monkeypatch.setattr(store_module, "write_file", full)
    saves.begin(snapshot)
    del snapshot
    ended = saves.wait()
    assert isinstance(ended.error, SaveError) and len(copies) == 2
    assert [copy() for copy in copies] == [None, None]


def test_a_snapshot_of_a_module_in_training_is_not_part_of_its_graph(tmp_path: Path) -> None:
    weights = torch.ones(3, requires_grad=True)
    snapshot = CheckpointStore(tmp_path).snapshot(1, {"model": {"w": weights}}, {})
    (weights * 2).sum().backward()
    assert snapshot.names == ["model/w"] and weights.grad is not None
