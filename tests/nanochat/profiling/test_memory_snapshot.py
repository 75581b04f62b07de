"""Snapshots of a process's memory: what they hold, when they are made, and that without the variable there are none."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nanochat.common import UserError
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.memory_snapshot import MemoryDebug, open_memory_debug, resident_mib
from nanochat.profiling.timers import SpanTimers
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.callback import Evaluation, Run
from tests.helpers.trainer_lab import STEPS, Lab, lab, loader, stop

__all__ = ["lab", "loader", "stop"]
CPU = torch.device("cpu")


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the snapshots, which are wanted."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("MC_MEMORY_DEBUG", "1")
    return tmp_path / "base" / "report" / "memory"


def phases(summary: Path) -> list[str]:
    return [line.split("|")[1].strip().replace("\\", "") for line in summary.read_text(encoding="utf-8").splitlines()[4:]]


@pytest.fixture
def fresh_pages() -> None:
    """Large tensors get pages of their own, although an earlier test of this process may have told glibc to reuse what was freed."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        mmap_max, mmap_threshold = -4, -3  # mallopt(3)
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 1 << 20)
        libc.malloc_trim(0)


def test_a_snapshot_names_the_largest_tensors_and_what_changed(wanted: Path, fresh_pages: None) -> None:
    debug = open_memory_debug("base-d1", CPU)
    assert debug is not None
    debug.record("start")  # what the first snapshot itself needs is no part of the difference below
    debug.record("before")
    held = torch.ones(12345, 1024)  # 48 MiB, written to
    view = held[1:]
    debug.record("after", 7)
    text = (wanted / "base-d1" / "after.txt").read_text(encoding="utf-8")
    assert text.startswith("phase after, after step 7\n") and "MiB since before" in text
    assert text.count("48.22 MiB  float32 [1234") == 1  # a view of it is no other memory
    row = (wanted / "base-d1" / "summary.md").read_text(encoding="utf-8").splitlines()[-1]
    assert re.match(r"\| after \| 7 \|", row)
    assert 40 < float(row.split("|")[-2]) < 90  # other threads of the process allocate too; twice 48 would be wrong
    assert len(view) == 12344


def test_tensors_that_hold_no_memory_are_left_out(wanted: Path) -> None:
    """torch.compile leaves some behind, and asking them for their memory is an error."""
    with FakeTensorMode():
        fake = torch.ones(1 << 20, 64)
    there = [fake, torch.ones(1 << 20, 64, device="meta"), torch.ones(3, 3).to_sparse()]
    debug = open_memory_debug("x", CPU)
    assert debug is not None
    debug.record("now")
    assert "[1048576, 64]" not in (wanted / "x" / "now.txt").read_text(encoding="utf-8") and len(there) == 3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system tells only the peak")
def test_what_is_resident_now_and_at_most(fresh_pages: None) -> None:
    before = resident_mib()
    held = torch.ones(64 << 18)  # 64 MiB
    assert 55 < resident_mib() - before < 75
    del held
    assert resident_mib() <= peak_memory_mib("cpu") + 1


def test_spans_are_recorded_at_their_first_end_until_the_last(wanted: Path) -> None:
    spans, debug = SpanTimers(CPU), open_memory_debug("x", CPU)
    assert debug is not None
    debug.watch(spans, last="optimizer")
    for _ in range(2):
        with spans("forward"), spans("lens"):
            pass
    with spans("optimizer"):
        pass
    assert spans.watchers == []  # from here on a span costs what it costs without
    with spans("later"):
        pass
    assert phases(wanted / "x" / "summary.md") == ["lens", "forward", "optimizer"]
    assert spans.collect().keys() == {"forward", "lens", "optimizer", "later"}


def test_running_out_of_memory_leaves_a_snapshot(wanted: Path) -> None:
    spans, debug = SpanTimers(CPU), open_memory_debug("x", CPU)
    assert debug is not None
    debug.watch(spans, last="optimizer")
    with pytest.raises(torch.OutOfMemoryError), spans("forward"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert phases(wanted / "x" / "summary.md") == ["forward_out_of_memory"]


def test_each_process_has_its_own_files(wanted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        debug = open_memory_debug("x", CPU, rank, 2)
        assert debug is not None
        debug.record("end")
    names = {path.name for path in (wanted / "x").iterdir()}
    assert names == {f"{name}.rank{rank}{kind}" for rank in (0, 1) for name, kind in (("end", ".txt"), ("summary", ".md"))}
    assert capsys.readouterr().out.count(str(wanted / "x")) == 1  # the first process says where


def test_a_training_run_leaves_its_phases(lab: Lab, wanted: Path) -> None:
    def evaluate(run: Run) -> dict[str, float]:
        return {"val/bpb": 1.0}

    assert lab.trainer(save_every=4, callbacks=[Evaluation(evaluate, 3)]).run()
    (summary,) = wanted.glob("*/summary.md")
    first = ["model_built", "data", "forward", "backward", "optimizer"]
    evaluations = [f"evaluate_step_000000{step}" for step in (3, 6, 8)]
    later = [evaluations[0], "checkpoint_step_0000004", evaluations[1], "checkpoint_step_0000008", evaluations[2], "end"]
    assert phases(summary) == first + later
    assert {path.stem for path in summary.parent.glob("*.txt")} == set(first + later)


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_the_variable_there_is_nothing(lab: Lab, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("MC_MEMORY_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("MC_MEMORY_DEBUG", value)
    trainer = lab.trainer()
    assert trainer.run() and trainer.state.step == STEPS
    assert trainer.spans.watchers == []
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("value", ["yes", "2", " 1"])
def test_another_value_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_MEMORY_DEBUG", value)
    with pytest.raises(UserError, match=re.escape(f"MC_MEMORY_DEBUG is {value!r}; set it to 1")):
        start(RuntimeFlags(device_type="cpu"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("MC_MEMORY_DEBUG", "1")
    with pytest.raises(UserError, match="cannot write to"):
        open_memory_debug("x", CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_allocator_is_shown(tmp_path: Path) -> None:
    debug = MemoryDebug(tmp_path, torch.device("cuda"))
    held = torch.ones(64 << 18, device="cuda")
    debug.record("one")
    assert "PyTorch CUDA memory summary" in (tmp_path / "one.txt").read_text(encoding="utf-8")
    assert "GPU reserved peak MiB" in (tmp_path / "summary.md").read_text(encoding="utf-8") and len(held)
