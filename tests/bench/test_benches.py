"""The benches run and end with one line of JSON that holds what they promise; their figures are nobody's business here."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import spin_count, telemetry
from nanochat.common import ROOT


def last_line(base: Path, *arguments: str) -> dict:
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_train_speed(base):
    shape = ("--depth=2", "--head-dim=16", "--max-seq-len=32", "--vocab-size=300", "--device-batch-size=2", "--total-batch-size=128")
    figures = last_line(base, "bench.train_speed", *shape, "--compile=0", "--rounds=1", "--steps=1")
    expected = ("tokens_per_s", "first_step_cold_s", "first_step_warm_s", "peak_mem_mib", "flops_per_s", "busy_tokens_per_s", "busy_share")
    assert all(figures[key] > 0 for key in expected)
    assert figures["shape"]["depth"] == 2


def test_spin_count(monkeypatch, capsys):
    """What it makes of its workers' answers: ratios of what was measured in the same round."""
    seconds = {"5": (2.0, 4.0), "300000": (1.0, 8.0), "passive": (2.0, 2.0)}  # quiet and busy
    load = [0]

    class Worker:
        def __init__(self, config, name, *_, **variables):
            self.name = name
            assert variables["GOMP_SPINCOUNT"] == ("0" if name == "passive" else name)

        def run(self, steps):
            return {"seconds": [seconds[self.name][load[0]]] * steps}

        def close(self):
            pass

    @contextlib.contextmanager
    def busy():
        load[0] = 1
        yield
        load[0] = 0

    monkeypatch.setattr(spin_count, "Side", Worker)
    monkeypatch.setattr(spin_count, "busy_core", busy)
    assert spin_count.main(["--counts=5", "--total-batch-size=8192"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["5"] == {"quiet_tokens_per_s": 4096, "busy_tokens_per_s": 2048, "quiet_ratio": 0.5, "of_fair_share": 0.5}
    assert figures["300000"]["of_fair_share"] == 0.25 and figures["passive"]["of_fair_share"] == figures["300000"]["quiet_ratio"] == 1


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
    assert all(figures[key] > 0 for key in ("controller_share", "variant_pack_ms", "step_vs_plain", "timers_share"))
    whole = ("--mc-joint=mean", "--gistnet-type=mean")
    figures = last_line(base, "bench.mc_overhead", *shape, "--compile=0", "--rounds=1", "--block-size=8", *whole)
    assert 0 < figures["all_stages_vs_predicted"] <= figures["step_vs_predicted"]


def test_session_recall(base, tmp_path):
    few = ("--short-steps=1", "--long-steps=1", "--short-batch=2", "--long-batch=1", "--rows=2", "--multiples=2", "--show-every=-1")
    figures = last_line(base, "bench.session_recall", *few, f"--keep={tmp_path}/weights")
    (row,) = figures["histories"]
    assert (row["history"], row["multiple"]) == (1024, 2) and figures["chance"] == 1 / 64
    assert all(0 <= row[condition] <= 1 for condition in ("window", "gists", "random", "focus", "found"))
    again = last_line(base, "bench.session_recall", *few, f"--keep={tmp_path}/weights")
    assert again["histories"] == figures["histories"] and again["training_minutes"] < figures["training_minutes"]


def test_session_crash(base):
    figures = last_line(base, "bench.session_crash", "--kills=4")
    assert figures["ok"] and figures["kills"] == 4 and figures["longest"] > 0
    assert figures["lost"] == figures["illegal"] == figures["wrong"] == 0


@pytest.mark.slow
def test_resume_crash(base):
    figures = last_line(base, "bench.resume_crash", "--kills=1", "--stops=1", "--changes=1", "--processes=1,2")
    assert figures["ok"] and figures["kill9_exact"] == figures["processes_1→2"] == figures["processes_2→2 mc"] == "1/1"


def test_the_telemetry_bench_sends_the_events_of_a_training_step(monkeypatch):
    monkeypatch.setattr(telemetry, "STEPS", 2)
    assert telemetry.share_of_step(telemetry.dead(), telemetry.tiny_step()) > 0


@pytest.mark.slow
def test_telemetry(base):
    figures = last_line(base, "bench.telemetry")
    assert figures["hung_close_s"] < 2 and figures["dead_close_s"] < 2
    assert all(dropped > 0 for dropped in figures["dropped"].values())
    assert all(0 < share < 0.01 for share in figures["share_of_step"].values())
