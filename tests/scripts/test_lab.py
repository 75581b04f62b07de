"""The lab as its users meet it: real trainings of a few steps, killed and taken up again, and what it says to bad input."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pytest

from bench.tiny_run import Home
from bench.warm_start import Process, WarmStart
from nanochat import flags
from nanochat.lab.cycle import Cycle, lab_folder, open_cycle
from nanochat.lab.profiles import Profile
from nanochat.lab.runner import command, environment
from nanochat.lab.surroundings import Surroundings
from scripts.base_train import BaseTrain
from tests.helpers.planted import plant

# What two runs of the same configuration and seed may differ in.
CLOCK = ("timestamp", "time_to_target_sec_measured", "time_to_target_sec_extrapolated", "tok_per_sec_median", "dt_median_ms")
CLOCK += ("wall_time_sec", "peak_mem_mib")
PATIENCE = 300.0  # seconds, for a busy machine
SHAPE = {
    "depth": 1,
    "aspect_ratio": 32,
    "head_dim": 16,
    "max_seq_len": 32,
    "device_batch_size": 4,
    "total_batch_size": 128,
    "num_iterations": 6,
}
QUIET = {"compile": False, "device_type": "cpu", "log_every": 1, "eval_every": 2, "eval_tokens": 256, "sample_every": -1}


@pytest.fixture
def lab(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An artefact folder with two equal cycles, `one` and `two`, whose baselines have run, and a template of two candidates beside it."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(home.base))
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    here = Surroundings.here(jobs=1)
    profile = Profile("tiny", "seconds", here.vocab_size, {**SHAPE, **QUIET, "dataset": str(home.corpus)})
    defaults = flags.flat_values(BaseTrain())
    for name in ("one", "two"):
        cycle = Cycle(lab_folder() / name, profile, "val/bpb", 3.0, (1, 2), 1, here, defaults, "2026-01-01T00:00:00Z")
        cycle.save()
        for seed in cycle.seeds:
            plant(cycle, cycle.baseline, seed, end=2.9)
    (tmp_path / "rates.yaml").write_text("grid: {lr_mult: [0.5, 2.0]}\n")
    return home


def run(lab: Home, *argv: str) -> Process:
    """A command of the lab, to its end: its trainings are processes that import torch."""
    process = lab.begin("scripts.lab", *argv)
    process.wait(timeout_seconds=PATIENCE)
    return process


def rows(home: Home, cycle: str) -> list[dict[str, str]]:
    """The results without what depends on the clock."""
    with open(home.base / "lab" / cycle / "results.csv", newline="") as f:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(f)]


def test_a_sweep_that_is_killed_half_way_ends_with_the_rows_of_runs_that_are_not(lab: Home, tmp_path: Path) -> None:
    words = ("sweep", f"{tmp_path}/rates.yaml", "--only=lr_mult=2")
    cycle = open_cycle("one", flags.flat_values(BaseTrain()))
    candidate = cycle.experiment("rates/lr_mult=2", {"lr_mult": 2.0})
    for seed in cycle.seeds:  # trained through, by base_train alone
        surroundings = environment(cycle.run_folder(candidate, seed), 1)
        assert lab.warm.start("scripts.base_train", command(candidate.flags, seed)[3:], surroundings).wait(PATIENCE) == 0
    whole = run(lab, *words, "--cycle=one")
    assert whole.code == 0 and "rates/lr\\_mult=2" in whole.stdout and ": started" not in whole.stdout, whole.stderr
    assert [(row["seed"], row["status"]) for row in rows(lab, "one")] == [("1", "ok"), ("2", "ok")] * 2

    killed = lab.begin("scripts.lab", *words, "--cycle=two")
    killed.until(lambda: "lr_mult=2 seed 2: started" in killed.stdout, PATIENCE)
    killed.signal(signal.SIGKILL)
    killed.wait()
    assert len(rows(lab, "two")) == 3
    again = run(lab, *words, "--cycle=two")
    assert again.code == 0 and "2 runs, 1 done before" in again.stdout, again.stderr
    assert "seed 2: a process that an earlier lab started is still training it" in again.stdout
    assert rows(lab, "two") == rows(lab, "one") and len(rows(lab, "two")) == 4
    assert run(lab, *words, "--cycle=two").stdout.startswith("2 runs, 2 done before")
    assert rows(lab, "two") == rows(lab, "one")
    assert not (lab.base / "base_runs").exists() and not (lab.base / "report").exists()


@pytest.mark.slow
def test_a_stopped_sweep_says_so_and_a_crash_is_a_row_and_checkpoints_are_tested(lab: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("candidates: {wild: {matrix_lr: 1.0e+30, embedding_lr: 1.0e+30}, fine: {lr_mult: 1.1}}\n")
    stopped = lab.begin("scripts.lab", "sweep", f"{tmp_path}/bad.yaml", "--cycle=one")
    stopped.until(lambda: ": started" in stopped.stdout, PATIENCE)
    stopped.signal(signal.SIGTERM)
    assert stopped.wait(PATIENCE) == 143 and stopped.stdout.endswith("stopped; run the same command again to continue\n")
    done = run(lab, "sweep", f"{tmp_path}/bad.yaml", "--cycle=one")
    assert done.code == 0, done.stderr
    status = {(row["experiment_name"], row["seed"]): row["status"] for row in rows(lab, "one")}
    assert status["bad/wild", "1"] in ("diverged", "crashed") and status["bad/fine", "2"] == "ok"
    log = tmp_path / "LOG.md"
    decided = run(lab, "decide", "bad/fine", "--cycle=one", f"--log={log}")
    assert decided.code == 0 and "checkpoint and resume: passed; exact" in log.read_text(), decided.stdout + decided.stderr
    assert run(lab, "decide", "bad/wild", "--cycle=one", f"--log={log}").stdout.count("reject") >= 1
    assert log.read_text().count("\n## ") == 2
    assert run(lab, "report", "--cycle=one").code == 0 and (lab.base / "lab" / "one" / "report" / "report.md").exists()


BAD = {
    "no such command": (["sweeep"], 2, "unknown command 'sweeep'"),
    "no template": (["sweep"], 2, "sweep takes a template A–G or a YAML file; 0 given"),
    "unknown template": (["sweep", "Z"], 2, "template is 'Z'; it must be one of A, B, C, D, E, F, G or a YAML file"),
    "template that is not there": (["sweep", "none.yaml"], 1, "cannot read none.yaml"),
    "no cycle": (["sweep", "B"], 1, "no cycle given; give --cycle NAME or --profile NAME; cycles are none yet"),
    "cycle that is not there": (["decide", "B", "--cycle=x"], 1, "there is no cycle 'x'"),
    "unknown profile": (["baseline", "--profile=big"], 2, "profile is 'big'; it must be cpu-micro, cpu, m1-d12, gpu-d12 or a YAML file"),
    "new cycle without a profile": (["baseline", "--cycle=x"], 1, "cycle x is new and needs a profile"),
    "one seed": (["baseline", "--profile=cpu", "--seeds=1"], 2, "seeds is 1; a comparison needs at least two"),
    "another metric": (["baseline", "--profile=cpu", "--metric=loss"], 2, "metric is 'loss'"),
    "path as a cycle": (["baseline", "--profile=cpu", "--cycle=../x"], 2, "cycle is '../x'"),
    "another tokenizer": (["baseline", "--profile=cpu-micro"], 1, "profile cpu-micro needs 8192"),
    "no cycles": (["plateau"], 1, "there are no cycles"),
    "flag of another command": (["plateau", "--seeds=3"], 2, "--seeds"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(home: Home, case: str) -> None:
    argv, code, says = BAD[case]
    process: Process = home.run("scripts.lab", *argv)
    assert process.code == code
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1 and says in process.stderr, process.stderr
    assert not (home.base / "lab").exists()


def test_help_names_every_command(warm: WarmStart) -> None:
    process = warm.start("scripts.lab", ["--help"], {})
    assert process.wait() == 0
    for name in ("baseline", "sweep", "decide", "miniseries", "scaling", "plateau", "report"):
        assert f"scripts.lab {name}" in process.stdout
