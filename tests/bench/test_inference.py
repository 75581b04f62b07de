"""The bench of inference runs, alone and beside a rival, and ends with one line of JSON; its figures are nobody's business here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.inference import InferenceSpeed
from nanochat.common import ROOT
from tests.bench.test_benches import last_line

RIVAL = os.environ.get("KARPATHY_NANOCHAT")
SHAPE = ("--depth=2", "--head-dim=16", "--max-seq-len=64", "--vocab-size=300", "--prompt-tokens=20", "--new-tokens=4", "--rounds=1")


def test_alone(base: Path) -> None:
    figures = last_line(base, "bench.inference", *SHAPE, "--batches=1,3", "--threads=1")
    assert list(figures["tokens_per_s"]) == ["1", "3"] and all(rate > 0 for rate in figures["tokens_per_s"].values())
    assert figures["ttft_ms"] > 0 and figures["peak_mem_mib"] > 0
    assert not [key for key in figures if "karpathy" in key]


@pytest.mark.parametrize(
    ("wrong", "knob"),
    [
        ({"rounds": 0}, "rounds"),
        ({"new_tokens": 1}, "new_tokens"),
        ({"batches": "1,x"}, "batches"),
        ({"batches": "0"}, "batches"),
        ({"prompt_tokens": 500, "new_tokens": 500}, "max_seq_len"),
        ({"threads": -1}, "threads"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, knob: str) -> None:
    with pytest.raises(ValueError, match=knob):
        InferenceSpeed(**wrong)


def fails(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.inference", *SHAPE, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_rival_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "is neither a checkout" in fails(f"--rival={tmp_path}")
    repository = tmp_path / "repository"
    environment = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run(["git", "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "x"], check=True, env=environment)
    assert "has no nanochat/engine.py" in fails(f"--rival={repository / '.git'}")


@pytest.mark.skipif(not RIVAL, reason="KARPATHY_NANOCHAT names no clone of karpathy/nanochat")
def test_beside_a_rival_both_say_the_same(base: Path) -> None:
    figures = last_line(base, "bench.inference", *SHAPE, "--batches=1,3", "--dtype=fp32", f"--rival={RIVAL}")
    assert figures["karpathy_agreement"] == 1.0
    assert all(ratio > 0 for ratio in figures["vs_karpathy"].values())
    assert figures["karpathy_bf16"]["ttft_ms"] > 0
