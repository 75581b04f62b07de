"""What a training run with a memory sends: events of training records only, under an id that a resumed run keeps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mc.telemetry.training import ID_FILE, TRAINED, TrainingEvents, session_id
from nanochat.common import UserError
from tests.helpers.tiny_memory import tiny_memory
from tests.mc.telemetry.test_sessions import Kept


def test_events_come_with_training_records(tmp_path: Path) -> None:
    kept = Kept()
    events = TrainingEvents(kept)
    events.started(SimpleNamespace(objective=tiny_memory(), run_folder=tmp_path), None)
    events.logged({"step": 3, "val/bpb": 1.0})
    assert kept.events == []
    events.logged({"step": 3, "total_tokens": 96, TRAINED: 0.5, "mc/build_ms": float("nan"), "train/time/data": 2.0})
    assert [event.event_type for event in kept.events] == ["mc_timing", "focus_allocator", "mc_tree_snapshot"]
    (timing,) = kept.of("mc_timing")
    assert (timing["step"], timing["step_ms"], timing["data_ms"], timing["forward_ms"]) == (3, 500.0, 2.0, 0.0)
    assert "build_ms" not in timing
    events.closing()
    assert kept.closed == 1


def test_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    first = session_id(tmp_path, None)
    assert session_id(tmp_path, 4) == first != session_id(tmp_path, None)
    (tmp_path / ID_FILE).unlink()
    assert len(session_id(tmp_path, 4)) == 32
    (tmp_path / ID_FILE).write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot read .*delete it"):
        session_id(tmp_path, 4)
