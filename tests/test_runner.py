"""The runners: what they would run, and what the stages of `runs/lib.sh` do when they are skipped, fail or are stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

RUNNERS = ("run10.sh", "speedrun.sh", "run1000.sh")
PYTHON = ".venv/bin/python"


def run_runner(root: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    name, *flags = arguments
    command = ["bash", str(root / name), *flags]
    return subprocess.run(command, cwd=cwd or root, env=os.environ | variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def dry_run(root: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> list[str]:
    done = run_runner(root, *arguments, "--dry-run", cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def script(root: Path, text: str) -> list[str]:
    """A runner of the test's own: `text` after what every runner does first. It works in the folder it is started in."""
    return ["bash", "-c", f'. {shlex.quote(str(root))}/runs/lib.sh; load_env; find_base_dir "$PWD"; start_log; {text}']


def run_script(root: Path, folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(root, text), cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=30)


# --- what would be run ---


def test_dry_run_of_the_cpu_demo(root: Path) -> None:
    assert dry_run(root, "run10.sh", "--gpu", "cpu") == [
        "./mc_setup --yes",
        f"{PYTHON} -m scripts.tok_train --vocab-size 8192 --dataset local",
        f"{PYTHON} -m scripts.tok_eval --dataset local",
        f"{PYTHON} -m scripts.base_train --model-tag d4 --run dummy --dataset local --device-type cpu --depth 4 --head-dim 64"
        " --max-seq-len 512 --device-batch-size 8 --total-batch-size 8192 --num-iterations 330"
        " --log-every 10 --eval-every 100 --eval-tokens 102400 --sample-every 165 --save-every 100",
        f"{PYTHON} -m scripts.base_eval --model-tag d4 --dataset local --device-type cpu",
        f"{PYTHON} -m scripts.mid_train --run dummy --model-tag d4 --device-type cpu"
        " --mixture demo --num-iterations 30 --lr-mult 0.5 --log-every 10 --eval-every -1",
        f"{PYTHON} -m scripts.chat_sft --run dummy --model-tag d4 --device-type cpu"
        " --mixture demo --num-iterations 110 --lr-mult 1.0 --log-every 10 --eval-every 55 --eval-tokens 51200",
        f"{PYTHON} -m scripts.chat_eval --source sft --model-tag d4 --device-type cpu --tasks demo --max-problems 200",
        f"{PYTHON} -m nanochat.report generate --out report/report.md",
    ]


def test_dry_run_of_the_gpu_profiles(root: Path, base: Path) -> None:
    lines = dry_run(root, "run10.sh", "--gpu", "5090")
    assert lines == [
        "./mc_setup --yes",
        f"{PYTHON} -m nanochat.dataset --dataset climbmix -n 8",
        f"{PYTHON} -m nanochat.dataset --dataset climbmix -n 90 >{base}/dataset_download.log 2>&1 &",
        f"{PYTHON} -m scripts.tok_train --vocab-size 32768 --dataset climbmix",
        f"{PYTHON} -m scripts.tok_eval --dataset climbmix",
        "wait",
        f"{PYTHON} -m scripts.base_train --model-tag d12 --run dummy --dataset climbmix --device-type cuda --depth 12 --max-seq-len 2048"
        " --device-batch-size 14 --total-batch-size 114688 --num-iterations 37760 --save-every 1000",
        f"{PYTHON} -m scripts.base_eval --model-tag d12 --dataset climbmix --device-type cuda",
        f"{PYTHON} -m scripts.mid_train --run dummy --model-tag d12 --device-type cuda --log-every 20",
        f"{PYTHON} -m scripts.chat_sft --run dummy --model-tag d12 --device-type cuda --log-every 20",
        f"{PYTHON} -m scripts.chat_eval --source sft --model-tag d12 --device-type cuda",
        f"{PYTHON} -m nanochat.report generate --out report/report.md",
    ]
    h100 = dry_run(root, "run10.sh", "--gpu", "h100")
    assert "--device-batch-size 28 --total-batch-size 229376 --num-iterations 18880" in h100[6]
    assert h100[:6] + h100[7:] == lines[:6] + lines[7:]
    assert 37760 * 114688 == 18880 * 229376, "the same token budget"


@pytest.mark.parametrize(
    ("runner", "flags"),
    [
        ("speedrun.sh", "--depth 20 --max-seq-len 2048 --device-batch-size 32 --total-batch-size 524288"),
        ("run1000.sh", "--depth 32 --max-seq-len 2048 --device-batch-size 8 --total-batch-size 524288"),
    ],
)
def test_dry_run_of_the_eight_gpu_recipes(root: Path, runner: str, flags: str) -> None:
    lines = dry_run(root, runner)
    train = next(line for line in lines if "base_train" in line)
    assert train.startswith(".venv/bin/torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- ")
    assert flags in train
    assert "--nproc_per_node=2 " in next(line for line in dry_run(root, runner, NPROC="2") if "base_train" in line)


def test_too_few_gpus_is_refused(root: Path, tmp_path: Path) -> None:
    fake_gpus(tmp_path, 40960, count=2)
    done = run_runner(root, "speedrun.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: this recipe wants 8 GPUs and 2 are here; set NPROC to run it with fewer processes, or use run10.sh"
    ]


def fake_gpus(folder: Path, mib: int, count: int = 1) -> None:
    """An `nvidia-smi` that reports `count` GPUs of `mib` MiB, as the real one prints them."""
    listing = "".join(f"echo 'GPU {i}: Some GPU (UUID: GPU-{i})'\n" for i in range(count))
    memory = f"echo {mib}\n" * count
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then\n{listing}else\n{memory}fi\n')
    (folder / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(("mib", "depth"), [(81559, 12), (143771, 12), (32607, 12)])
def test_auto_picks_the_profile_by_the_gpu(root: Path, tmp_path: Path, mib: int, depth: int) -> None:
    fake_gpus(tmp_path, mib)
    lines = dry_run(root, "run10.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert lines == dry_run(root, "run10.sh", "--gpu", "h100" if mib > 70000 else "5090")


def test_auto_refuses_a_small_gpu_and_takes_the_demo_without_one(root: Path, tmp_path: Path) -> None:
    fake_gpus(tmp_path, 8192)
    done = run_runner(root, "run10.sh", "--dry-run", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "8192 MiB" in done.stderr and len(done.stderr.splitlines()) == 1
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not talk to the driver.'\nexit 9\n")
    assert dry_run(root, "run10.sh", PATH=f"{tmp_path}:{os.environ['PATH']}") == dry_run(root, "run10.sh", "--gpu=cpu")


def test_flags_of_the_user_replace_those_of_the_profile(root: Path, tmp_path: Path) -> None:
    flags = ["--gpu", "cpu", "--depth=6", "--device_batch_size", "4", "--run=my_run", "--matrix_lr=0.01", "--compile", "0"]
    lines = dry_run(root, "run10.sh", *flags)
    train = shlex.split(next(line for line in lines if "base_train" in line))
    assert train[3:5] == ["--model-tag", "d6"]
    assert train[-6:] == ["--depth=6", "--device-batch-size", "4", "--run=my_run", "--matrix-lr=0.01", "--compile", "0"][-6:]
    assert "--depth" not in train and train.count("--device-batch-size") == 1 and "--run" not in train
    horizon = dry_run(root, "run10.sh", "--gpu", "cpu", "--target-param-data-ratio", "8")
    assert not any("num-iterations" in line for line in horizon if "base_train" in line)
    assert all(line.endswith("--compile 0") or "--compile 0 " in line for line in lines if "mid_train" in line or "chat_sft" in line)


@pytest.mark.parametrize("how", [["--mc"], ["--profile=mc"], ["--mc_enabled", "1"], ["--mc=1"], ["--mc", "0", "--profile", "mc"]])
def test_a_run_with_a_memory_differs_from_its_baseline_in_the_memory_alone(root: Path, how: list[str]) -> None:
    plain, memory = dry_run(root, "run10.sh", "--gpu", "cpu"), dry_run(root, "run10.sh", "--gpu", "cpu", *how)
    assert memory[:3] == plain[:3] and memory[-1] == plain[-1]
    train = plain[3].replace("--model-tag d4 ", "--model-tag d4-mc ").replace("--dataset local ", "--dataset local --mc ")
    assert memory[3] == f"{train} --mc-preset fast --mc-anneal 0 --positional-type local --mc-eval-tokens 51200"
    assert memory[4:-1] == [line.replace("d4", "d4-mc") for line in plain[4:-1]]


def test_the_flags_of_a_memory_are_replaced_and_its_tag_ends_once(root: Path) -> None:
    train, evaluate = dry_run(root, "run10.sh", "--gpu", "cpu", "--mc", "--mc_preset=full", "--block-size", "8", "--model-tag", "x-mc")[3:5]
    assert train.endswith(" --mc-preset=full --block-size 8") and "fast" not in train
    assert "--model-tag x-mc " in train and "--model-tag x-mc " in evaluate
    assert dry_run(root, "run10.sh", "--gpu", "cpu", "--mc=0") == dry_run(root, "run10.sh", "--gpu", "cpu")
    (train,) = [line for line in dry_run(root, "speedrun.sh", "--mc") if "base_train" in line]
    assert "--model-tag d20-mc" in train and " --mc " in train


def test_dataset_and_tag_reach_every_stage(root: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    lines = dry_run(root, "run10.sh", "--gpu", "h100", "--dataset", "texts", cwd=tmp_path, MODEL_TAG="mine", WANDB_RUN="curve")
    stages = [line for line in lines if "scripts." in line]
    assert len(stages) == 7 and all(f"--dataset {tmp_path}/texts" in line for line in stages[:4])
    assert not any("nanochat.dataset" in line for line in lines), "own texts need no download"
    assert all("--model-tag mine" in line for line in stages[2:]) and ["--run curve" in line for line in stages[2:]] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert "--model-tag other" in dry_run(root, "run10.sh", "--gpu", "cpu", "--model_tag=other", MODEL_TAG="mine")[3]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model-tag=a-mc"], "error: the model tag is 'a-mc', but names in -mc are for runs with --mc; choose another or add --mc"),
        (["--profile=other"], "error: --profile is baseline or mc, not 'other'"),
        (["--model-tag"], "error: --model-tag needs a value"),
    ],
)
def test_wrong_options_of_the_runners(root: Path, tmp_path: Path, runner: str, flags: list[str], message: str) -> None:
    done = run_runner(root, runner, *flags, NANOCHAT_BASE_DIR=str(tmp_path / "base"))
    assert (done.returncode, done.stderr.splitlines()) == (2, [message])
    assert not (tmp_path / "base").exists(), "nothing was begun"


def test_wrong_gpu(root: Path) -> None:
    done = run_runner(root, "run10.sh", "--gpu", "tpu")
    assert (done.returncode, done.stderr) == (2, "error: --gpu is auto, cpu, 5090 or h100, not 'tpu'\n")
    done = run_runner(root, "speedrun.sh", "--gpu", "h100")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("mode", [[], ["--dry-run"]])
def test_unknown_flag_is_refused_before_any_stage(root: Path, base: Path, mode: list[str]) -> None:
    if subprocess.run([root / "mc_setup", "--check"]).returncode:
        pytest.skip("the environment was not made by mc_setup")
    done = run_runner(root, "run10.sh", "--gpu", "cpu", *mode, "--num-iteration", "5")
    assert done.returncode == 2
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    assert errors == ["error: unknown flag or argument --num-iteration; did you mean --num-iterations?"]
    assert not (base / "tokenizer").exists() and "Traceback" not in done.stderr


@pytest.mark.parametrize("runner", RUNNERS)
def test_help(root: Path, runner: str) -> None:
    done = run_runner(root, runner, "--help")
    assert done.returncode == 0 and f"bash {runner}" in done.stdout


# --- stages ---


def test_a_stage_runs_once(root: Path, tmp_path: Path, base: Path) -> None:
    text = """stage first made.txt -- bash -c 'echo "it'"'"'s $1" | tee -a made.txt' - 'a "b" \\ c'"""
    first = run_script(root, tmp_path, text)
    assert first.returncode == 0, first.stderr
    stamp = json.loads((base / "stages/first.json").read_text())
    assert stamp["stage"] == "first" and stamp["seconds"] >= 0 and stamp["finished"].endswith("Z")
    assert shlex.split(stamp["command"])[-1] == 'a "b" \\ c'
    second = run_script(root, tmp_path, text)
    assert second.stdout == "== first: done before, skipped\n"
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
        f"error: bad failed with exit code 7; what it said is in {tmp_path}/report/log.txt",
    ]
    assert "reason" in (tmp_path / "report/log.txt").read_text()
    assert not (tmp_path / "x").exists() and list((base / "stages").iterdir()) == [], "no stamp, no lock"


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
    assert not (base / "stages/train.json").exists()


def test_the_download_goes_on_beside_the_stages(root: Path, tmp_path: Path, base: Path) -> None:
    text = """start_download . -- bash -c 'echo fetching; until [ -e tokenizer ]; do sleep 0.05; done; touch data'
        stage tokenizer tokenizer -- touch tokenizer; wait_for_download; stage train model -- cp data model"""
    done = run_script(root, tmp_path, text)
    assert done.returncode == 0, done.stdout
    assert (base / "dataset_download.log").read_text() == "fetching\n" and (tmp_path / "model").exists()
    assert json.loads((base / "stages/download.json").read_text())["stage"] == "download"
    assert "== download: done before, skipped" in run_script(root, tmp_path, text).stdout


def test_a_failed_download_stops_the_run_and_a_failed_run_its_download(root: Path, tmp_path: Path, base: Path) -> None:
    done = run_script(root, tmp_path, "start_download . -- bash -c 'exit 3'; wait_for_download; stage train x -- touch x")
    assert done.returncode == 3 and "dataset_download.log" in done.stdout.splitlines()[-1] and not (tmp_path / "x").exists()
    log = base / "dataset_download.log"
    log.unlink()
    text = "start_download . -- bash -c 'echo $$; exec sleep 60'; stage bad x -- bash -c 'until [ -s {log} ]; do sleep 0.02; done; exit 4'"
    assert run_script(root, tmp_path, text.format(log=log)).returncode == 4
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


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


# --- the scripts themselves ---


@pytest.mark.parametrize("path", [*RUNNERS, "mc_setup", "tests/run.sh", ".ci/run", "runs/runcpu.sh"])
def test_scripts_are_executable_and_parse(root: Path, path: str) -> None:
    assert os.access(root / path, os.X_OK)
    assert (root / path).read_text().startswith("#!/usr/bin/env bash\n")
    checked = subprocess.run(["bash", "-n", root / path], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("path", [*RUNNERS, "runs/runcpu.sh"])
def test_every_module_that_is_run_exists(root: Path, path: str) -> None:
    text = (root / path).read_text() if path.startswith("runs/") else "\n".join(dry_run(root, path))
    modules = set(re.findall(r"-m ([a-z_]+\.[a-z_]+)", text))
    assert "scripts.base_train" in modules
    missing = [module for module in sorted(modules) if not (root / f"{module.replace('.', '/')}.py").exists()]
    assert not missing
