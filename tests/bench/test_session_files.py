"""The proof of sessions on disk runs and counts what it promises."""

import json
import os
import subprocess
import sys

import pytest

from nanochat.common import ROOT

COMMAND = [sys.executable, "-m", "bench.session_files"]


@pytest.mark.slow
def test_session_files():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*COMMAND, "--kills=12", "--damages=12"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    counted = json.loads(result.stdout.splitlines()[-1])
    assert counted["kills"] == counted["damages"] == counted["detected"] == 12 and counted["torn"] > 0 and counted["repaired"] > 0
    assert counted["lost"] == counted["wrong"] == counted["silent"] == 0 and counted["ok"]
    assert all(counted[name] > 0 for name in ("open_1m_tokens_seconds", "append_tokens_per_second", "append_one_token_us"))
    assert 1 < counted["bytes_per_token_ratio"] <= 1.02


def test_session_files_refuses_what_cannot_be_counted():
    result = subprocess.run([*COMMAND, "--kills=-1"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr == "error: --kills and --damages count from 0\n"
