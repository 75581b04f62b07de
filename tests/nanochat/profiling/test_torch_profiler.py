"""Profiles of a few steps: what is in the trace, what the run is like beside one without, runs that stop and resume."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.common import UserError
from nanochat.profiling.timers import SpanTimers
from nanochat.profiling.torch_profiler import TOP, StepProfiler, parse_steps
from nanochat.train.trainer import TrainerFlags
from tests.helpers.trainer_lab import STEPS, Lab, Scripted, another, lab, loader, stop

__all__ = ["lab", "loader", "stop"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the traces."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base" / "report" / "profile"


def events(trace: Path) -> list[dict[str, Any]]:
    with gzip.open(trace, "rt", encoding="utf-8") as f:
        return json.load(f)["traceEvents"]


def ranges(trace: Path) -> dict[str, list[dict[str, Any]]]:
    """The ranges of our own, by name, in their order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in sorted(events(trace), key=lambda event: event["ts"]):
        if event.get("cat") == "user_annotation":
            found.setdefault(event["name"], []).append(event)
    return found


def steps_of(trace: Path) -> list[str]:
    return [name for name in ranges(trace) if name.startswith("step ")]


def test_a_trace_holds_the_spans_of_its_steps_and_operators(lab: Lab, folder: Path) -> None:
    assert lab.trainer(profile_steps="2:4").run()
    (trace,) = folder.iterdir()
    assert trace.name.endswith("-steps-2-4.pt.trace.json.gz")
    for event in events(trace):
        assert event.keys() >= {"ph", "ts", "pid", "tid", "name"} and (event["ph"] != "X" or event["dur"] >= 0)
    found = ranges(trace)
    assert {name: len(each) for name, each in found.items()} == {
        **{"step 2": 1, "step 3": 1, "data": 2, "optimizer": 2},
        **dict.fromkeys(("forward", "backward"), 2 * 2),  # of two micro-batches
    }
    inside = found["step 3"][0]
    for name in ("data", "forward", "backward", "optimizer"):
        last = found[name][-1]
        assert inside["ts"] <= last["ts"] and last["ts"] + last["dur"] <= inside["ts"] + inside["dur"]
    assert any(event["name"] == "aten::mm" and event.get("cat") == "cpu_op" for event in events(trace))


def test_a_profile_changes_nothing_but_a_count(lab: Lab) -> None:
    plain = another(lab, "plain")
    assert plain.trainer().run() and lab.trainer(profile_steps="2:4").run()
    figures = lab.figures()
    assert [record.pop("train/profiled_steps", 0) for record in figures] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert figures == plain.figures() and lab.saved(STEPS) == plain.saved(STEPS)


def test_the_steps_are_counted_over_an_interval(lab: Lab) -> None:
    assert lab.trainer(profile_steps="3:6", log_every=4).run()
    assert [record.get("train/profiled_steps") for record in lab.metrics()] == [1, 2]


def test_a_resumed_run_profiles_what_is_left(lab: Lab, folder: Path) -> None:
    def ask_to_stop(step: int, loss: Tensor) -> Tensor:
        if step == 3 and not lab.stop:
            os.kill(os.getpid(), signal.SIGTERM)
            while not lab.stop:
                time.sleep(0.001)
        return loss

    lab.wrap = lambda model: Scripted(model, ask_to_stop)
    assert not lab.trainer(profile_steps="2:6").run()
    assert steps_of(folder / f"{lab.folder.parent.name}-{lab.folder.name}-steps-2-4.pt.trace.json.gz") == ["step 2", "step 3"]
    lab.stop.requested = None
    lab.wrap = Scripted
    assert lab.trainer(profile_steps="2:6").run()
    assert steps_of(folder / f"{lab.folder.parent.name}-{lab.folder.name}-steps-4-6.pt.trace.json.gz") == ["step 4", "step 5"]


def test_a_run_that_resumes_behind_the_steps_says_so(folder: Path) -> None:
    said: list[str] = []
    profiler = StepProfiler((2, 4), 8, "x", CPU)
    profiler.start(4, said.append)
    with profiler.step(4, SpanTimers(CPU)):
        pass
    profiler.close()
    assert said == ["profile_steps 2:4: the run resumes at step 4, there is nothing left to profile"]
    assert not folder.exists()


def profiled(profiler: StepProfiler, say: list[str]) -> None:
    spans = SpanTimers(CPU)
    profiler.start(None, say.append)
    with closing(profiler):
        for step in range(3):
            with profiler.step(step, spans), spans("forward"):
                torch.ones(64, 64) @ torch.ones(64, 64)


def test_what_took_longest_is_said_and_is_no_range_of_ours(folder: Path) -> None:
    said: list[str] = []
    profiled(StepProfiler((0, 2), 3, "base-x", CPU), said)
    assert said[0] == f"profile of steps 0 to 1: {folder / 'base-x-steps-0-2.pt.trace.json.gz'}; ui.perfetto.dev opens it"
    assert "operator, by its own time on the CPU" in said[1]
    rows = [line.split() for line in said[2:]]
    assert 0 < len(rows) <= TOP and {row[3] for row in rows} >= {"aten::mm"} and not {row[3] for row in rows} & {"forward", "step"}
    times = [float(row[0]) for row in rows]
    assert times == sorted(times, reverse=True)
    assert sum(float(row[1].rstrip("%")) for row in rows) <= 100.5


def test_each_process_writes_a_trace(folder: Path) -> None:
    for rank in (0, 1):
        profiled(StepProfiler((1, 3), 3, "base-x", CPU, rank, 2), [])
    assert sorted(path.name for path in folder.iterdir()) == [f"base-x-steps-1-3-rank{rank}.pt.trace.json.gz" for rank in (0, 1)]


def test_a_step_that_fails_ends_the_profile(folder: Path) -> None:
    spans, profiler = SpanTimers(CPU), StepProfiler((0, 3), 3, "x", CPU)
    with pytest.raises(ZeroDivisionError), closing(profiler):
        with profiler.step(0, spans):
            pass
        with profiler.step(1, spans):
            _ = 1 / 0
    assert spans.watchers == [] and steps_of(folder / "x-steps-0-1.pt.trace.json.gz")[0] == "step 0"
    profiled(StepProfiler((0, 1), 3, "y", CPU), [])  # the profiler is free again


def test_a_disk_that_refuses(folder: Path) -> None:
    folder.parent.parent.mkdir()
    folder.parent.touch()
    with pytest.raises(UserError, match="cannot write to"):
        profiled(StepProfiler((0, 1), 3, "x", CPU), [])


def test_without_steps_nothing_is_made(lab: Lab, folder: Path) -> None:
    assert lab.trainer().run()
    assert not folder.exists()


def test_steps_behind_the_end_are_refused(lab: Lab) -> None:
    with pytest.raises(UserError, match=f"profile_steps is 6:{STEPS + 1}, but the run ends with step {STEPS - 1}"):
        lab.trainer(profile_steps=f"6:{STEPS + 1}")


@pytest.mark.parametrize("text", ["4", "4:", ":4", "4:4", "5:4", "-1:4", "1:2:3", "a:b", "1 :2", "1:2\n", "٣:٤"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="profile_steps is"):
        TrainerFlags(profile_steps=text)


def test_a_range() -> None:
    assert parse_steps("0:1") == (0, 1) and parse_steps("10:12") == (10, 12) and parse_steps("") is None
