"""The benches run and end with one line of JSON that holds what they promise; their figures are nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def last_line(base: Path, *arguments: str) -> dict:
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_train_speed(base):
    shape = ("--depth=2", "--head-dim=16", "--max-seq-len=32", "--vocab-size=300", "--device-batch-size=2", "--total-batch-size=128")
    figures = last_line(base, "bench.train_speed", *shape, "--compile=0", "--rounds=1", "--steps=1")
    expected = ("tokens_per_s", "first_step_cold_s", "first_step_warm_s", "peak_mem_mib", "flops_per_s")
    assert all(figures[key] > 0 for key in expected)
    assert figures["shape"]["depth"] == 2


def test_train_speed_refuses_what_is_no_checkout(base, tmp_path):
    command = [sys.executable, "-m", "bench.train_speed", "--nanochat", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "no nanochat/gpt.py" in result.stderr


def test_loader(base):
    figures = last_line(base, "bench.loader")
    assert figures["tokens_per_s"] > 0 and figures["open_s"] > 0


def test_mc_overhead(base):
    shape = ("--depth=2", "--head-dim=16", "--max-seq-len=128", "--vocab-size=300", "--device-batch-size=2", "--total-batch-size=256")
    figures = last_line(base, "bench.mc_overhead", *shape, "--compile=0", "--rounds=1", "--block-size=8")
    assert all(figures[key] > 0 for key in ("controller_share", "variant_pack_ms", "step_vs_predicted", "timers_share"))
    assert figures["all_stages_vs_predicted"] <= figures["step_vs_predicted"]
