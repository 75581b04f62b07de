"""Processes that torchrun's agent started: their end with it, their store, and the exit code by which it starts them again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from nanochat.common import UserError
from nanochat.runtime import elastic
from nanochat.runtime.device import _of_this_start
from nanochat.runtime.elastic import leave_unfinished, run_id
from nanochat.runtime.signals import StopSignals


class Asked(StopSignals):
    """A process that was asked to stop, or not, by no signal."""

    def __init__(self, requested: str | None) -> None:
        self.requested = requested


def test_the_name_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, name in ((None, ""), ("none", ""), ("job-7", "job-7")):
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        if given:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", given)
        assert run_id() == name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_process_ends_with_its_agent(root: Path) -> None:
    worker = (
        "import time\nfrom nanochat.runtime.elastic import end_with_agent\nfrom nanochat.runtime.signals import StopSignals\n"
        "stop = StopSignals()\nend_with_agent()\nprint('ready', flush=True)\n"
        "while not stop: time.sleep(0.01)\nprint(stop.requested, flush=True)"
    )
    agent = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]])\ntime.sleep(60)"
    command = [sys.executable, "-c", agent, worker]
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.readline() == "SIGTERM\n"


def test_a_store_of_the_agent_has_a_part_for_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _of_this_start(store) is store, "the processes made it for this start"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    _of_this_start(store).set("key", "first")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert not _of_this_start(store).check(["key"])
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^restarts on several machines need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun; use runs/m"):
        _of_this_start(store)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    _of_this_start(store)


def test_a_process_that_was_not_asked_fails_if_it_may_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "ASKED_SECONDS", 0.2)
    leave_unfinished(Asked(None))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    leave_unfinished(Asked(None))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    leave_unfinished(Asked("SIGTERM"))
    begin = time.monotonic()
    with pytest.raises(UserError, match="^stopped and saved, as another process of the run was asked to"):
        leave_unfinished(Asked(None))
    assert time.monotonic() - begin >= 0.2


def test_torchrun_starts_processes_again_on_one_machine(root: Path, tmp_path: Path) -> None:
    """With the agent's store, as `torchrun --standalone --max-restarts` has it; one process is killed in its first life."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom nanochat.runtime.device import RuntimeFlags, start\n"
        "runtime = start(RuntimeFlags(device_type='cpu', compile=False))\n"
        "runtime.barrier()\nlife = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "if life == '0' and runtime.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "assert runtime.all_agree(life == '1')\nprint(f'rank {runtime.rank} of {runtime.world_size} in life {life}', flush=True)\n"
        "runtime.close()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2 in life 1", "rank 1 of 2 in life 1"]
    assert "exitcode: -9" in done.stderr
