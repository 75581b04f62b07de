"""base_train with a model that two processes share: the training of one process, and its checkpoints."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.tiny_run import Home
from nanochat.checkpoint.store import CheckpointStore
from tests.helpers.two_processes import start_two
from tests.scripts.test_base_train import assert_one_line

STEPS = 8
FLAGS = (f"--num-iterations={STEPS}", "--warmup-steps=2", "--save-every=4", "--keep-checkpoints=-1", "--eval-every=4", "--eval-tokens=4096")


def test_a_sharded_run_is_that_of_one_process_and_either_takes_up_the_other(alone: Home, home: Home, tmp_path: Path) -> None:
    sharded = (*FLAGS, "--shard-model", "--activation-checkpointing=selective", "--sample-every=8")
    processes = start_two(home, *sharded)
    processes[0].until(lambda: home.logged(4))
    processes[1].signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    one = home.copy(tmp_path / "one")
    assert one.train(*FLAGS).code == 0
    processes = start_two(home, *sharded)  # an evaluation may be the first that runs
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    assert " → " in processes[0].stdout and processes[1].stdout == ""
    expected = alone.figures()
    for run in (home, one):
        mine = run.figures()
        assert [record["step"] for record in mine] == [record["step"] for record in expected]
        for key in ("train/loss", "val/bpb"):
            figures = [[record[key] for record in records if key in record] for records in (mine, expected)]
            assert figures[0] == pytest.approx(figures[1], rel=1e-5), key
    whole, saved = (CheckpointStore(run.checkpoints).load(STEPS, ["model"]).tensors["model"] for run in (alone, home))
    assert {name: tensor.shape for name, tensor in saved.items()} == {name: tensor.shape for name, tensor in whole.items()}


def test_what_cannot_be_sharded_is_refused(home: Home) -> None:
    assert_refused(home, 1, "--shard-model splits the weights over processes, and there is one")
    assert_refused(home, 2, "a memory reads weights", "--mc")
    assert not home.checkpoints.exists()


def assert_refused(home: Home, code: int, line: str, *flags: str) -> None:
    process = home.train(*FLAGS, "--shard-model", *flags)
    assert process.code == code
    assert_one_line(process.stderr, line)
