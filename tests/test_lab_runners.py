"""runs/miniseries.sh and runs/scaling_laws.sh: what they would run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PYTHON = ".venv/bin/python"


def run_runner(root: Path, name: str, *flags: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "runs" / name), *flags]
    return subprocess.run(command, cwd=cwd or root, env=dict(os.environ), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def dry_run(root: Path, name: str, *flags: str, cwd: Path | None = None) -> list[str]:
    done = run_runner(root, name, *flags, "--dry-run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_depth_sweep_on_a_cpu(root: Path, base: Path) -> None:
    assert dry_run(root, "miniseries.sh", "--gpu", "cpu") == [
        "./mc_setup --yes",
        f"{PYTHON} -m scripts.tok_train --vocab-size 8192 --dataset local",
        f"{PYTHON} -m scripts.lab baseline --profile cpu-micro",
        f"{PYTHON} -m scripts.lab miniseries baseline --profile cpu-micro",
        f"{PYTHON} -m scripts.lab report --profile cpu-micro",
    ]


def test_a_candidate_and_flags_go_to_the_lab(root: Path, base: Path) -> None:
    lines = dry_run(root, "miniseries.sh", "--gpu=cpu", "--cycle", "two", "B/x=0.3", "--depths", "2,4")
    assert lines[-2] == f"{PYTHON} -m scripts.lab miniseries baseline B/x=0.3 --profile cpu-micro --cycle two --depths 2\\,4"


def test_a_gpu_gets_the_profile_for_one_and_its_data(root: Path, base: Path) -> None:
    lines = dry_run(root, "scaling_laws.sh", "--gpu", "h100", "--flops=1e18")
    assert lines[1:] == [
        f"{PYTHON} -m nanochat.dataset --dataset climbmix -n 8",
        f"{PYTHON} -m scripts.tok_train --vocab-size 32768 --dataset climbmix",
        f"{PYTHON} -m scripts.lab baseline --profile gpu-d12",
        f"{PYTHON} -m scripts.lab scaling --profile gpu-d12 --flops=1e18",
        f"{PYTHON} -m scripts.lab report --profile gpu-d12",
    ]


def test_a_tokenizer_that_is_there_is_kept_and_a_profile_of_ones_own_is_found(root: Path, base: Path, tmp_path: Path) -> None:
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "bpe.json").write_text("{}")
    lines = dry_run(root, "scaling_laws.sh", "--profile", "mine.yaml", cwd=tmp_path)
    assert lines[1] == f"{PYTHON} -m scripts.lab baseline --profile {tmp_path}/mine.yaml"


@pytest.mark.parametrize(
    "flags, says", [(["--gpu", "tpu"], "invalid --gpu 'tpu'; expected auto, cpu, 5090 or h100"), (["--gpu"], "--gpu needs a value")]
)
def test_bad_options_are_one_line(root: Path, flags: list[str], says: str) -> None:
    done = run_runner(root, "miniseries.sh", *flags)
    assert (done.returncode, done.stderr) == (2, f"error: {says}\n")


@pytest.mark.parametrize("name", ["miniseries.sh", "scaling_laws.sh"])
def test_help(root: Path, name: str) -> None:
    done = run_runner(root, name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: bash runs/{name} ")
