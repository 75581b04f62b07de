"""base_train on a slow disk: whatever comes while a checkpoint is written, the run ends with a whole one, or as it was."""

from __future__ import annotations

import signal
import time

import pytest

from bench.tiny_run import QUIET, SHAPE, Home
from bench.warm_start import Process
from nanochat.checkpoint.store import CheckpointStore
from tests.helpers.two_processes import new_world

FILE_SECONDS = 0.8  # a process writes three files, one after the other
STEPS = ("--num-iterations=1_000_000", "--warmup-steps=5", "--save-every=6")


def saving(home: Home, processes: int) -> list[Process]:
    """A run that trains on while its first checkpoint is written."""
    argv = [*SHAPE, *QUIET, f"--dataset={home.corpus}", *STEPS]
    environment = {"NANOCHAT_BASE_DIR": str(home.base), "NANOCHAT_DTYPE": "fp32", "SLOW_DISK_SECONDS": str(FILE_SECONDS)}
    environment |= new_world() if processes > 1 else {}
    started = [
        home.warm.start("tests.helpers.slow_disk", argv, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    started[0].until(lambda: any(home.checkpoints.glob(".step_*.tmp/*.safetensors")))
    return started


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_run_ends_with_a_whole_checkpoint_also_if_it_is_told_twice(home: Home, processes: int) -> None:
    started = saving(home, processes)
    first, last = started[0], started[-1]
    last.signal(signal.SIGTERM)
    last.until(lambda: "SIGTERM: stopping" in last.stderr)
    begin = time.monotonic()
    for process in started:
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in started] == [0] * processes, [process.stderr for process in started]
    assert time.monotonic() - begin > 3 * FILE_SECONDS, "the run has not waited for its last save"
    store = CheckpointStore(home.checkpoints)
    earlier, newest = store.steps()
    assert earlier == 6 and store.verify(earlier) is None and store.verify(newest) is None
    assert f"stopped by SIGTERM after step {newest} of 1000000" in first.stdout
    assert not list(home.checkpoints.glob(".*"))


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_half_checkpoint(home: Home) -> None:
    (process,) = saving(home, 1)
    process.signal(signal.SIGINT)
    process.until(lambda: "SIGINT: stopping" in process.stderr)
    process.signal(signal.SIGINT)
    assert process.wait() == 130 and process.stderr.endswith("\ninterrupted\n")
    assert CheckpointStore(home.checkpoints).steps() == [], "it has waited for the save"


def test_a_process_that_dies_in_a_save_ends_the_other_and_leaves_no_half_checkpoint(home: Home) -> None:
    first, second = saving(home, 2)
    second.signal(signal.SIGKILL)
    assert first.wait() == 1
    assert first.stderr.startswith("error: rank 1 on ") and " died while this process waited for it" in first.stderr
    assert first.stderr.count("\n") == 1 and CheckpointStore(home.checkpoints).steps() == []
