"""What the stages of `runs/lib.sh` do when they are skipped, fail or are stopped."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.runner_lab import run_script, script


def here(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- stages ---


def test_a_stage_runs_once(root: Path, tmp_path: Path, base: Path) -> None:
    text = """stage first made.txt -- bash -c 'echo "it'"'"'s $1" | tee -a made.txt' - 'a "b" \\ c'"""
    first = run_script(root, tmp_path, text)
    assert first.returncode == 0, first.stderr
    stamp = json.loads((base / "stages/first.json").read_text())
    assert stamp["stage"] == "first" and stamp["seconds"] >= 0 and stamp["finished"].endswith("Z")
    assert shlex.split(stamp["command"])[-1] == 'a "b" \\ c'
    second = run_script(root, tmp_path, text)
    assert second.stdout == "== first: already done, skipped\n"
    assert (tmp_path / "made.txt").read_text() == 'it\'s a "b" \\ c\n'
    assert (tmp_path / "report/log.txt").read_text() == first.stdout + second.stdout


def test_a_stage_runs_again_when_its_command_artefact_or_input_changes(root: Path, tmp_path: Path, base: Path) -> None:
    def ran(first: str = "1", second: str = "1") -> list[str]:
        text = f"stage a a.txt -- cp {first}.in a.txt; stage b b.txt a -- cp {second}.in b.txt; stage c c.txt -- cp 1.in c.txt"
        done = run_script(root, tmp_path, text)
        assert done.returncode == 0, done.stderr
        return [line[3] for line in done.stdout.splitlines() if line.startswith("== ") and ": cp" in line]

    for name in "12":
        (tmp_path / f"{name}.in").write_text(name)
    assert ran() == ["a", "b", "c"]
    assert ran() == []
    assert ran(second="2") == ["b"]
    assert ran(first="2", second="2") == ["a", "b"], "what takes its input from a changed stage runs again"
    (tmp_path / "c.txt").unlink()
    assert ran(first="2", second="2") == ["c"]
    stamp = base / "stages/a.json"
    stamp.write_text(stamp.read_text()[:40])
    assert ran(first="2", second="2") == ["a", "b"], "a torn stamp is no stamp"


def test_a_failing_stage_ends_the_run_with_its_code(root: Path, tmp_path: Path, base: Path) -> None:
    done = run_script(root, tmp_path, "stage bad x -- bash -c 'echo reason >&2; exit 7'; stage next x -- touch x")
    assert done.returncode == 7
    assert done.stdout.splitlines()[1:] == [
        "reason",
        f"error: bad failed with exit code 7; see {tmp_path}/report/log.txt",
    ]
    assert "reason" in (tmp_path / "report/log.txt").read_text()
    assert not (tmp_path / "x").exists() and here(base / "stages") == ["bad.failed"], "no stamp, no lock"
    failed = json.loads((base / "stages/bad.failed").read_text())
    assert failed["stage"] == "bad" and failed["code"] == 7 and shlex.split(failed["command"])[0] == "bash"
    again = run_script(root, tmp_path, "stage bad x -- touch x")
    assert again.returncode == 0 and here(base / "stages") == ["bad.json"]


def test_success_without_the_artefact_is_an_interruption(root: Path, tmp_path: Path, base: Path) -> None:
    done = run_script(root, tmp_path, "stage train step_0000010 -- mkdir step_0000005; stage next x -- touch x")
    assert done.returncode == 130
    assert "run the same command again to continue" in done.stdout and not (tmp_path / "x").exists()
    (tmp_path / "old.txt").write_text("from another run")
    done = run_script(root, tmp_path, "stage evaluate old.txt -- true")
    assert done.returncode == 130, "a file of an earlier run is not this one's artefact"
    assert not (base / "stages/evaluate.json").exists()


SAVES_ON_SIGNAL = """
import pathlib, signal, sys, time
def save(*_):
    print("saving", flush=True); time.sleep(0.5); pathlib.Path("saved").touch(); print("saved"); sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGHUP, False, 129)],
)
def test_a_signal_lets_the_stage_save_and_then_stops_the_run(
    root: Path, tmp_path: Path, base: Path, number: int, whole_group: bool, code: int
) -> None:
    """The terminal sends Ctrl-C to the whole group, other tools signal the runner alone: the stage ends in order both times."""
    (tmp_path / "train.py").write_text(SAVES_ON_SIGNAL)
    command = script(root, "stage train done -- python3 train.py; stage next x -- touch x")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        while "ready" not in (line := process.stdout.readline()):
            assert line, "the stage did not start"
        (os.killpg if whole_group else os.kill)(process.pid, number)
        rest = process.stdout.read()
        assert process.wait(timeout=10) == code
    assert rest.splitlines()[-2:] == ["saved", "stopped; run the same command again to continue"]
    assert (tmp_path / "saved").exists() and not (tmp_path / "x").exists()
    assert (tmp_path / "report/log.txt").read_text().endswith(rest)
    assert here(base / "stages") == ["train.failed"] and json.loads((base / "stages/train.failed").read_text())["code"] == code


def test_a_base_dir_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_script(root, tmp_path, "stage a x -- touch x", NANOCHAT_BASE_DIR=str(tmp_path / "file/base"))
    assert done.returncode == 1
    assert done.stderr == f"error: cannot write to {tmp_path}/file/base; set NANOCHAT_BASE_DIR to a writable folder\n"
    assert not (tmp_path / "x").exists()


def test_one_run_at_a_time_in_a_base_dir(root: Path, tmp_path: Path, base: Path) -> None:
    lock = base / "stages/lock"
    both = f"until [ $(wc -l <{lock}) = 2 ]; do sleep 0.02; done; touch noted"  # the runner and its stage
    done = run_script(root, tmp_path, f"stage first noted -- bash -c {shlex.quote(both)}")
    assert done.returncode == 0 and not lock.exists()

    with subprocess.Popen(["true"]) as runner, subprocess.Popen(["sleep", "60"]) as stage:
        runner.wait()
        lock.write_text(f"{runner.pid}\n{stage.pid}\n")
        done = run_script(root, tmp_path, "stage a x -- touch x")
        stage.kill()
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1) and f"process {stage.pid}" in done.stderr
    assert not (tmp_path / "x").exists() and lock.exists()
    done = run_script(root, tmp_path, "stage a x -- touch x")
    assert done.returncode == 0 and not lock.exists(), "the lock of a run that is gone is taken over"


@pytest.mark.parametrize("given", ["~/base", "here/base", "/abs base"])
def test_base_dir_is_passed_on_as_an_absolute_path(root: Path, tmp_path: Path, given: str) -> None:
    given = str(tmp_path) + given if given.startswith("/") else given
    done = run_script(root, tmp_path, "stage a x -- bash -c 'echo $NANOCHAT_BASE_DIR >x'", NANOCHAT_BASE_DIR=given, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    expected = given.replace("~", str(tmp_path)) if given[0] in "~/" else f"{tmp_path}/{given}"
    assert (tmp_path / "x").read_text() == f"{expected}\n" and Path(expected, "stages/a.json").exists()


def test_mc_env_never_overrides(root: Path, tmp_path: Path, base: Path) -> None:
    (tmp_path / ".mc_env").write_text(
        "# comment\n\nexport HF_TOKEN='it'\\''s $HOME'\nWANDB_API_KEY=plain\nexport WANDB_RUN=file\nexport MODEL_TAG=file\nnot a line\n"
    )
    done = run_script(root, tmp_path, 'printf "%s|" "$HF_TOKEN" "$WANDB_API_KEY" "$WANDB_RUN" "$MODEL_TAG"', WANDB_RUN="mine", MODEL_TAG="")
    assert done.stdout == "it's $HOME|plain|mine||"
