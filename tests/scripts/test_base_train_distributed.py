"""base_train in several processes: the same rows, the same training, and checkpoints that any number of processes take up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.tiny_run import QUIET, SHAPE, Home, new_home
from bench.warm_start import Process
from nanochat.common import ROOT
from tests.helpers.two_processes import start_two

STEPS = 12
FLAGS = (f"--num-iterations={STEPS}", "--warmup-steps=5", "--save-every=4", "--keep-checkpoints=-1", "--eval-every=8", "--eval-tokens=8192")


def start(home: Home, *flags: str) -> list[Process]:
    """The run in two processes."""
    return start_two(home, *FLAGS, *flags)


def assert_nearly_equal(home: Home, other: Home) -> None:
    """Equal rows and records, and losses that differ by the order of additions alone."""
    mine, theirs = home.figures(), other.figures()
    assert [record["step"] for record in mine] == [record["step"] for record in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys()
        assert a.get("train/data_hash") == b.get("train/data_hash")
        for key in a.keys() & {"train/loss", "val/bpb"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4)


def test_two_processes_train_as_one_and_either_takes_up_the_other(alone: Home, home: Home, tmp_path: Path) -> None:
    processes = start(home)
    processes[0].until(lambda: home.logged(6))
    processes[1].signal(signal.SIGTERM)  # one is told, both stop
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    step = home.saved_steps()[-1]
    assert 6 <= step < STEPS
    assert f"stopped by a signal to another process after step {step} of {STEPS}; run again to continue" in processes[0].stdout
    one = home.copy(tmp_path / "one")
    again = start(home)
    assert one.train(*FLAGS).code == 0
    assert [process.wait() for process in again] == [0, 0], again[0].stderr + again[1].stderr
    assert again[1].stdout == "", "a process besides the first has printed something"
    assert_nearly_equal(home, alone)
    assert_nearly_equal(one, alone)
    back = alone.copy(tmp_path / "back")
    processes = start(back, "--resume=4")
    assert [process.wait() for process in processes] == [0, 0]
    assert_nearly_equal(back, alone)


def test_a_stop_in_an_evaluation_stops_both(home: Home) -> None:
    processes = start(home, "--eval-tokens=10_000_000")
    processes[0].until(lambda: 8 in home.saved_steps())
    processes[0].signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    assert home.saved_steps()[-1] == 8 and not home.logged(8, "val/bpb")


def test_two_killed_processes_are_continued_exactly(alone: Home, home: Home, tmp_path: Path) -> None:
    whole = new_home(tmp_path / "whole", home.corpus, home.warm)
    processes = start(whole)
    assert [process.wait() for process in processes] == [0, 0]
    processes = start(home)
    processes[0].until(lambda: home.logged(6))
    for process in processes:
        process.signal(signal.SIGKILL)
        process.wait()
    processes = start(home)
    assert [process.wait() for process in processes] == [0, 0]
    home.assert_same_training(whole, STEPS)


def test_a_batch_that_does_not_divide_over_the_processes(home: Home) -> None:
    processes = start(home, "--total-batch-size=128")
    assert [process.wait() for process in processes] == [1, 1]
    expected = "error: total_batch_size 128 is not a multiple of 256 tokens (device_batch_size × max_seq_len × processes); change one\n"
    assert processes[0].stderr == expected


def torchrun(home: Home, *flags: str) -> subprocess.Popen[str]:
    """The command of the documentation."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "scripts.base_train", "--"]
    return subprocess.Popen(
        [*command, *SHAPE, *QUIET, f"--dataset={home.corpus}", *FLAGS, *flags],
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(home.base), "NANOCHAT_DTYPE": "fp32", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits up to a minute; the process must not end before."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended or hangs"
        time.sleep(0.01)


@pytest.mark.slow
def test_torchrun_passes_sigterm_on_and_the_run_is_saved(alone: Home, home: Home) -> None:
    with torchrun(home) as process:
        try:
            wait_until(lambda: home.logged(6), process)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "stopped by SIGTERM after step" in output
    step = home.saved_steps()[-1]
    assert 6 <= step < STEPS
    assert home.train(*FLAGS).code == 0
    assert_nearly_equal(home, alone)
