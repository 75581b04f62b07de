"""Whole recipes: stopped in the middle, continued, and skipped when it is done; in one process and in two."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.runner_lab import dry_run, run_runner, stage_commands

FLAGS = "--gpu cpu --depth 2 --max-seq-len 128 --total-batch-size 1024 --num-iterations 60 --log-every 10 --save-every 1000"
FLAGS += " --eval-every 30 --eval-tokens 8192 --compile 0 --model-tag tiny"


@pytest.mark.slow
def test_the_recipe_of_eight_gpus_in_two_processes_on_a_cpu(root: Path, base: Path) -> None:
    """All that `--dry-run` prints is run, in that order, and the report knows the stages."""
    flags = [*FLAGS.split(), "--total-batch-size", "2048", "--num-iterations", "20", "--rl"]
    printed = stage_commands(dry_run(root, "speedrun.sh", *flags))
    done = run_runner(root, "speedrun.sh", *flags)
    assert done.returncode == 0, done.stdout[-2000:]
    run = [shlex.split(line) for line in re.findall(r"^== \w+: (\.venv/bin/.*)$", done.stdout, re.MULTILINE)]
    assert run == printed and sum("--nproc_per_node=2" in words for words in run) == 7
    assert "2 processes" in done.stdout and "base_train needs about " in done.stdout
    for stage in ("base", "mid", "sft", "rl"):
        assert list((base / f"{stage}_checkpoints/tiny").glob("step_*")) and f"{base}/{stage}_checkpoints/tiny" in done.stdout
    report = (root / "report/report.md").read_text()
    assert "### Chat evaluation" in report and "chat\\_eval\\_rl" in report


@pytest.mark.slow
def test_the_recipe_stops_continues_and_skips(root: Path, base: Path) -> None:
    command = ["bash", str(root / "run10.sh"), *FLAGS.split()]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    with stopped:
        assert stopped.stdout is not None
        while not re.search(r"step 0+[1-4]\d/00060", line := stopped.stdout.readline()):
            assert line, "the run ended before it trained"
        os.kill(stopped.pid, signal.SIGTERM)
        rest = stopped.stdout.read()
    assert stopped.returncode == 143 and rest.endswith("stopped; run the same command again to continue\n")
    (saved,) = (base / "base_checkpoints/tiny").glob("step_*")
    assert 10 <= int(saved.name.removeprefix("step_")) < 60

    continued = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert continued.returncode == 0, continued.stdout[-2000:]
    assert "tok_train: already done, skipped" in continued.stdout
    assert (base / "base_checkpoints/tiny/step_0000060").is_dir()
    steps = [json.loads(line)["step"] for line in (base / "base_runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 60
    report = (root / "report/report.md").read_text()
    assert "tiny" in report and "### Chat evaluation" in report
    assert (root / "report/log.txt").read_text().endswith(continued.stdout)

    began = time.monotonic()
    skipped = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert time.monotonic() - began < 20
    assert skipped.returncode == 0 and skipped.stdout.count("already done, skipped") == 8
