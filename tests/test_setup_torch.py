"""Choice of torch's release by mc_setup: MC_TORCH, and what is already installed; seen by what `--check` calls up to date."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """mc_setup with an environment that it takes for whole."""
    for name in ("mc_setup", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / "rustbpe").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    return tmp_path


def check(checkout: Path, installed: str, wanted: str) -> subprocess.CompletedProcess[str]:
    """`mc_setup --check` where the extras `installed` are, with MC_TORCH `wanted`."""
    sources = subprocess.run("cat pyproject.toml | cksum", cwd=checkout, shell=True, capture_output=True, text=True, check=True).stdout
    stamp = f"sources={sources.strip()}\ncheckout={checkout}\nextras={installed}\n"
    (checkout / ".venv/mc_setup.stamp").write_text(stamp)
    environment = os.environ | {"MC_TORCH": wanted, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "mc_setup", "--check"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("more", ["", ",dev"])
def test_the_release_is_chosen_once(checkout: Path, more: str) -> None:
    kind = "gpu" if shutil.which("nvidia-smi", path="/usr/bin:/bin") else "cpu"
    for installed, fits in ((f"{kind},otel{more}", ("", "2.13")), (f"torch211,otel{more}", ("", "2.11"))):
        for wanted in ("", "2.13", "2.11"):
            assert (check(checkout, installed, wanted).returncode == 0) == (wanted in fits), (installed, wanted)


def test_another_release_is_refused(checkout: Path) -> None:
    done = check(checkout, "cpu,otel", "2.12")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: invalid MC_TORCH=2.12; expected 2.13 or 2.11\n")
