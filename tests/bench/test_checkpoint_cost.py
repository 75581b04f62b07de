"""The bench of what checkpoints cost runs in its processes and tells what it promises."""

from __future__ import annotations

import json

import pytest

from bench import checkpoint_cost


def test_a_tiny_state(capsys: pytest.CaptureFixture[str]) -> None:
    code = checkpoint_cost.main(["--depth=1", "--vocab-size=300", "--resumed-by=1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["processes"] == 2 and found["checkpoint_mb"] > 0
    assert all(found[key] >= 0 for key in ("stall_s", "stall_in_background_s", "write_in_background_s"))
    one = found["resumed"]["1"]
    assert one["peak_over_share"] >= one["after_over_share"] and code == (one["peak_over_share"] > checkpoint_cost.MOST)


def test_numbers_of_processes_are_numbers() -> None:
    with pytest.raises(ValueError, match="invalid resumed_by 'two': expected numbers of processes"):
        checkpoint_cost.CheckpointCost(resumed_by="two")
