"""What the runners would run: golden dry runs, options, machines; and that they run just that."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from nanochat.common import ROOT
from nanochat.data.hub_download import DownloadConfig
from nanochat.flags import parse
from nanochat.report.__main__ import Report
from scripts.base_eval import BaseEval
from scripts.base_train import BaseTrain
from scripts.chat_cli import ChatCli
from scripts.chat_eval import ChatEval
from scripts.chat_rl import ChatRl
from scripts.chat_sft import ChatSft
from scripts.mc_eval import MCEval
from scripts.memory_estimate import EstimateMemory, estimate
from scripts.mid_train import MidTrain
from scripts.tok_eval import TokEval
from scripts.tok_train import TokTrain
from tests.helpers.runner_lab import RUNNERS, copy_checkout, dry_run, fake_gpus, run_runner, stage_commands

GOLDEN = sorted((ROOT / "tests" / "golden").glob("run*.txt")) + sorted((ROOT / "tests" / "golden").glob("speedrun*.txt"))
STAGES = ("tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft", "chat_eval")
RECIPES = {
    "nanochat.dataset": DownloadConfig,
    "nanochat.report": Report,
    "tok_train": TokTrain,
    "tok_eval": TokEval,
    "base_train": BaseTrain,
    "base_eval": BaseEval,
    "mid_train": MidTrain,
    "chat_sft": ChatSft,
    "chat_rl": ChatRl,
    "chat_eval": ChatEval,
    "chat_cli": ChatCli,
    "mc_eval": MCEval,
}
TRAIN = 5  # where in the dry run of the CPU demo base_train is
MIB = {"5090": 32607, "h100": 81559}  # of memory, as nvidia-smi tells it
TOKENS_IN_SHARD = 53e6


@pytest.fixture(scope="session")
def shell(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without an environment."""
    return copy_checkout(root, tmp_path_factory.mktemp("shell") / "checkout")


# --- golden dry runs ---


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_dry_run(shell: Path, base: Path, tmp_path: Path, golden: Path) -> None:
    """A golden file begins with its command. Where a change of it is wanted, what is printed now lies ready to be copied."""
    command, _, wanted = golden.read_text().partition("\n")
    done = run_runner(shell, *command.removeprefix("$ bash ").split())
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.replace(str(shell), "CHECKOUT").replace(str(base), "BASE")
    (tmp_path / golden.name).write_text(f"{command}\n{printed}")
    assert printed.splitlines() == wanted.splitlines(), f"if that is wanted: cp {tmp_path / golden.name} {golden}"


def test_every_recipe_has_its_golden_dry_runs() -> None:
    recipes = {(runner, machine) for runner in ("run10", "speedrun", "run1000") for machine in ("cpu", "5090", "h100")}
    recipes.remove(("run1000", "5090"))
    names = {path.stem for path in GOLDEN}
    assert names >= {f"{runner}-{machine}{memory}" for runner, machine in recipes for memory in ("", "-mc")}


def test_profiles_are_those_of_the_table(shell: Path) -> None:
    """Model, tokens and processes of each profile, and shards enough for it."""
    wanted = {
        ("run10.sh", "5090"): (12, 114_688, 4.33e9, 1),
        ("run10.sh", "h100"): (12, 229_376, 4.33e9, 1),
        ("speedrun.sh", "5090"): (20, 524_288, 11.2e9, 8),
        ("speedrun.sh", "h100"): (20, 524_288, 11.2e9, 8),
        ("run1000.sh", "h100"): (32, 524_288, 37.6e9, 8),
    }
    for (runner, machine), (depth, batch, tokens, processes) in wanted.items():
        for memory in ([], ["--mc"]):
            lines = dry_run(shell, runner, "--gpu", machine, *memory)
            (train,) = [words for words in stage_commands(lines) if "scripts.base_train" in words]
            flags = dict(zip(train, train[1:], strict=False))
            assert (int(flags["--depth"]), int(flags["--total-batch-size"])) == (depth, batch)
            total = batch * int(flags["--num-iterations"])
            assert total == pytest.approx(tokens, rel=0.005)
            assert batch % (int(flags["--device-batch-size"]) * int(flags["--max-seq-len"]) * processes) == 0
            assert (f"--nproc_per_node={processes}" in train) == (processes > 1)
            shards = max(int(words[-1]) for words in stage_commands(lines) if "nanochat.dataset" in words)
            assert 1.08 * total < shards * TOKENS_IN_SHARD < 1.15 * total


# --- a dry run is what is run ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["run10.sh", "--gpu", "cpu"],
        ["run10.sh", "--gpu", "h100", "--dataset", "own texts", "--rl"],
        ["speedrun.sh", "--gpu", "cpu", "--mc", "--rl", "--mc-eval", "--model-tag", "it's"],
        ["speedrun.sh", "--matrix_lr=0.01"],
    ],
)
def test_what_is_run_is_what_the_dry_run_printed(root: Path, tmp_path: Path, base: Path, arguments: list[str]) -> None:
    checkout = copy_checkout(root, tmp_path / "check out", environment=True)
    gpus = fake_gpus(tmp_path / "gpus", MIB["h100"], count=8)
    printed = stage_commands(dry_run(checkout, *arguments, **gpus))
    (checkout / "commands.txt").unlink(missing_ok=True)
    done = run_runner(checkout, *arguments, **gpus)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    run = [ast.literal_eval(line) for line in (checkout / "commands.txt").read_text().splitlines()]
    assert sorted(run) == sorted(printed), "the download runs in the background"
    assert [words for words in run if "nanochat.dataset" not in words] == [words for words in printed if "nanochat.dataset" not in words]

    again = run_runner(checkout, *arguments, **gpus)
    assert again.returncode == 0 and again.stdout.count("already done, skipped") == len(printed)


def test_the_summary_says_where_all_is(root: Path, tmp_path: Path, base: Path) -> None:
    checkout = copy_checkout(root, tmp_path / "checkout", environment=True)
    gpus = fake_gpus(tmp_path / "gpus", MIB["h100"])
    done = run_runner(checkout, "run10.sh", "--mc", **gpus)
    lines = done.stdout[done.stdout.index("== stages") :].splitlines()
    names = ["data", "tok_train", "tok_eval", "download", "base_train_mc", "base_eval_mc", "mid_train_mc", "chat_sft_mc", "chat_eval_mc"]
    assert [line.split()[0] for line in lines[1:12]] == [*names, "report_mc", "total"]
    assert "in the background" in lines[4] and not any("skipped" in line for line in lines)
    assert lines[11].split()[2:] == [] and lines[12:] == [
        "== report and checkpoints",
        f"   {checkout}/report/report.md",
        f"   {base}/base_checkpoints/d12-mc",
        "== chat, on the terminal or on http://127.0.0.1:8000",
        f"   NANOCHAT_BASE_DIR={base} .venv/bin/python -m scripts.chat_cli --model-tag d12-mc --mc",
        f"   NANOCHAT_BASE_DIR={base} .venv/bin/python -m scripts.chat_web --model-tag d12-mc --mc",
    ]
    stamp = base / "stages/base_train_mc.json"
    stamp.write_text(stamp.read_text().replace(f'"seconds": {json.loads(stamp.read_text())["seconds"]},', '"seconds": 36005,'))
    again = run_runner(checkout, "run10.sh", "--mc", **gpus).stdout
    assert re.search(r"^   base_train_mc +10h00m  skipped$", again, re.MULTILINE)
    assert re.search(r"^   total +10h00m  \d+s in this run$", again, re.MULTILINE)


# --- machines ---


@pytest.mark.parametrize(("mib", "machine"), [(81559, "h100"), (143771, "h100"), (32607, "5090")])
def test_auto_picks_the_profile_by_the_gpu(shell: Path, tmp_path: Path, mib: int, machine: str) -> None:
    gpus = fake_gpus(tmp_path, mib)
    assert dry_run(shell, "run10.sh", **gpus) == dry_run(shell, "run10.sh", "--gpu", machine)


def test_auto_refuses_a_small_gpu_and_takes_the_demo_without_one(shell: Path, tmp_path: Path) -> None:
    gpus = fake_gpus(tmp_path, 8192)
    done = run_runner(shell, "run10.sh", "--dry-run", **gpus)
    assert done.returncode == 2
    assert "8192 MiB" in done.stderr and len(done.stderr.splitlines()) == 1
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not talk to the driver.'\nexit 9\n")
    for runner in RUNNERS:
        assert dry_run(shell, runner, "--gpu=auto", **gpus) == dry_run(shell, runner, "--gpu=cpu")


@pytest.mark.parametrize(
    ("arguments", "gpus", "variables", "message"),
    [
        (
            ["run10.sh", "--gpu", "5090"],
            0,
            {},
            "run10.sh --gpu 5090 needs an NVIDIA GPU and nvidia-smi finds none; --gpu cpu",
        ),
        (["run1000.sh"], 0, {}, "run1000.sh --gpu h100 needs an NVIDIA GPU"),
        (
            ["speedrun.sh"],
            2,
            {},
            "this recipe needs 8 GPUs and found 2; set NPROC to run it with fewer processes, or use run10.sh",
        ),
        (["speedrun.sh"], 2, {"NPROC": "4"}, "this recipe needs 4 GPUs and found 2"),
    ],
)
def test_gpus_that_are_not_there(
    shell: Path, tmp_path: Path, arguments: list[str], gpus: int, variables: dict[str, str], message: str
) -> None:
    base = tmp_path / "base"
    done = run_runner(shell, *arguments, **fake_gpus(tmp_path / "gpus", MIB["h100"], gpus), **variables, NANOCHAT_BASE_DIR=str(base))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith(f"error: {message}") and not base.exists(), "nothing was begun"


@pytest.mark.parametrize("runner", ["speedrun.sh", "run1000.sh"])
def test_processes(shell: Path, runner: str) -> None:
    for machine, variables, processes in (("h100", {}, 8), ("cpu", {}, 2), ("h100", {"NPROC": "4"}, 4), ("cpu", {"NPROC": "1"}, 1)):
        commands = stage_commands(dry_run(shell, runner, "--gpu", machine, **variables))
        trained = [words for words in commands if words[0].endswith("torchrun")]
        assert len(trained) == 5 and all(f"--nproc_per_node={processes}" in words for words in trained)
    done = run_runner(shell, runner, "--dry-run", NPROC="many")
    assert (done.returncode, done.stderr) == (2, "error: invalid NPROC 'many'; expected a number of processes\n")


# --- options ---


def test_flags_of_the_user_replace_those_of_the_profile(shell: Path) -> None:
    flags = ["--gpu", "cpu", "--depth=6", "--device_batch_size", "4", "--run=my_run", "--matrix_lr=0.01", "--compile", "0"]
    lines = dry_run(shell, "run10.sh", *flags)
    train = lines[TRAIN].split()
    assert train[1:5] == ["-m", "scripts.base_train", "--model-tag", "d6"]
    assert train[-7:] == ["--depth=6", "--device-batch-size", "4", "--run=my_run", "--matrix-lr=0.01", "--compile", "0"]
    assert "--depth" not in train and train.count("--device-batch-size") == 1 and "--run" not in train
    horizon = dry_run(shell, "run10.sh", "--gpu", "cpu", "--target-param-data-ratio", "8")
    assert "num-iterations" not in horizon[TRAIN]
    assert all(line.endswith("--compile 0") or "--compile 0 " in line for line in lines if "mid_train" in line or "chat_sft" in line)


@pytest.mark.parametrize("how", [["--mc"], ["--profile=mc"], ["--mc_enabled", "1"], ["--mc=1"], ["--mc", "0", "--profile", "mc"]])
def test_a_run_with_a_memory_differs_from_its_baseline_in_the_memory_alone(shell: Path, how: list[str]) -> None:
    plain, memory = dry_run(shell, "run10.sh", "--gpu", "cpu"), dry_run(shell, "run10.sh", "--gpu", "cpu", *how)
    assert memory[:TRAIN] == plain[:TRAIN] and memory[-1] == plain[-1]
    train = plain[TRAIN].replace("--model-tag d4 ", "--model-tag d4-mc ").replace("--dataset local ", "--dataset local --mc ")
    assert memory[TRAIN] == f"{train} --mc-preset fast --mc-anneal 0 --mc-eval-tokens 51200"
    assert memory[TRAIN + 1 : -1] == [line.replace("d4", "d4-mc") for line in plain[TRAIN + 1 : -1]]


def test_the_flags_of_a_memory_are_replaced_and_its_tag_ends_once(shell: Path) -> None:
    lines = dry_run(shell, "run10.sh", "--gpu", "cpu", "--mc", "--mc_preset=full", "--block-size", "8", "--model-tag", "x-mc")
    assert lines[TRAIN].endswith(" --mc-preset=full --block-size 8") and "fast" not in lines[TRAIN]
    assert all("--model-tag x-mc " in line for line in lines[TRAIN : TRAIN + 2])
    assert dry_run(shell, "run10.sh", "--gpu", "cpu", "--mc=0") == dry_run(shell, "run10.sh", "--gpu", "cpu")


def test_dataset_and_tag_reach_every_stage(shell: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    lines = dry_run(shell, "run10.sh", "--gpu", "h100", "--dataset", "texts", cwd=tmp_path, MODEL_TAG="mine", WANDB_RUN="curve")
    stages = [line for line in lines if "scripts." in line]
    assert len(stages) == 7 and all(f"--dataset {tmp_path}/texts" in line for line in stages[:4])
    assert not any("nanochat.dataset" in line for line in lines), "own texts need no download"
    assert all("--model-tag mine" in line for line in stages[2:])
    assert ["--run curve" in line for line in stages[2:]] == [True, False, True, True, False]
    assert "--model-tag other" in dry_run(shell, "run10.sh", "--gpu", "cpu", "--model_tag=other", MODEL_TAG="mine")[TRAIN]


def test_the_lines_of_a_dry_run_can_be_pasted(root: Path, tmp_path: Path, base: Path) -> None:
    checkout = copy_checkout(root, tmp_path / "it's here", environment=True)
    (checkout / ".mc_env").write_text("export WANDB_RUN='from the file'\n")
    lines = dry_run(checkout, "run10.sh", "--gpu", "h100", NANOCHAT_BASE_DIR=str(base / "a b"))
    pasted = subprocess.run(["bash", "-eu"], input="\n".join(lines), cwd=tmp_path, capture_output=True, text=True)
    assert pasted.returncode == 0, pasted.stderr
    run = [ast.literal_eval(line) for line in (checkout / "commands.txt").read_text().splitlines()]
    assert sorted(run) == sorted(stage_commands(lines)) and ". ./.mc_env" in lines
    assert (base / "a b/report/chat_evaluation.json").exists() and (base / "a b/dataset_download.log").exists()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model-tag=a-mc"], "error: the model tag is 'a-mc', but names in -mc are for runs with --mc; choose another or add --mc"),
        (["--profile=other"], "error: invalid --profile 'other'; expected baseline or mc"),
        (["--model-tag"], "error: --model-tag needs a value"),
        (["--gpu", "tpu"], "error: invalid --gpu 'tpu'; expected auto, cpu, 5090 or h100"),
        (["--mc-eval"], "error: --mc-eval evaluates a memory; add --mc, or remove --mc-eval"),
    ],
)
def test_wrong_options_of_the_runners(shell: Path, tmp_path: Path, runner: str, flags: list[str], message: str) -> None:
    done = run_runner(shell, runner, *flags, NANOCHAT_BASE_DIR=str(tmp_path / "base"))
    assert (done.returncode, done.stderr.splitlines()) == (2, [message])
    assert not (tmp_path / "base").exists(), "nothing was begun"


def test_a_machine_that_a_recipe_is_not_for(shell: Path) -> None:
    done = run_runner(shell, "run1000.sh", "--gpu", "5090", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    message = "run1000.sh has no profile for --gpu 5090: its memory is too small for the model; choose h100, or cpu for the demo"
    assert done.stderr == f"error: {message}\n"


@pytest.mark.parametrize("runner", RUNNERS)
def test_help(root: Path, runner: str) -> None:
    done = run_runner(root, runner, "--help")
    assert done.returncode == 0 and f"bash {runner}" in done.stdout


# --- flags and memory, before anything is begun ---


def test_device_batches_are_the_largest_that_fit(shell: Path) -> None:
    for runner, machine in (
        ("run10.sh", "5090"),
        ("speedrun.sh", "5090"),
        ("speedrun.sh", "h100"),
        ("run1000.sh", "h100"),
        ("run10.sh", "h100"),
    ):
        (train,) = [words for words in stage_commands(dry_run(shell, runner, "--gpu", machine)) if "scripts.base_train" in words]
        processes = 1 if runner == "run10.sh" else 8
        memory = f"--device-memory={MIB[machine] / 1024}"
        flags = [word for word in train[train.index("scripts.base_train") + 1 :] if word != "--"]
        recipe = parse(EstimateMemory, [*flags, f"--processes={processes}", memory])
        spare = 2 if (runner, machine) == ("speedrun.sh", "h100") else 1
        assert estimate(recipe).largest_that_fits() == spare * recipe.train.trainer.device_batch_size, f"{runner} --gpu {machine}"


@pytest.fixture(scope="session")
def ready(root: Path) -> Path:
    """The checkout itself, whose environment was made by mc_setup."""
    if subprocess.run([root / "mc_setup", "--check"]).returncode:
        pytest.skip("the environment was not made by mc_setup")
    return root


def test_a_dry_run_says_what_memory_is_needed(ready: Path, tmp_path: Path) -> None:
    comments = [
        line
        for line in run_runner(ready, "run10.sh", "--gpu", "5090", "--depth", "14", "--check-memory", "0", "--dry-run").stdout.splitlines()
        if line[0] == "#"
    ]
    assert comments[0] == "# run10.sh --gpu 5090, tag d14"
    assert re.fullmatch(r"# base_train needs about 3\d\.\d of 31\.8 GiB \(.*\); largest that fits: --device-batch-size 14", comments[1])


def test_what_base_train_would_refuse_is_refused_before_any_stage(ready: Path, base: Path) -> None:
    wrong = {
        ("--num-iteration", "5"): (2, "unknown flag or argument --num-iteration; did you mean --num-iterations?"),
        ("--depth", "64", "--head-dim", "128"): (1, "the run needs about "),
    }
    for flags, (code, message) in wrong.items():
        done = run_runner(ready, "run10.sh", "--gpu", "cpu", *flags)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.stderr
        assert done.stderr.startswith(f"error: {message}")
    assert list(base.iterdir()) == [], "nothing was begun"


# --- the scripts themselves ---


@pytest.mark.parametrize("path", [*RUNNERS, "mc_setup", "tests/run.sh", ".ci/run", "runs/runcpu.sh"])
def test_scripts_are_executable_and_parse(root: Path, path: str) -> None:
    assert os.access(root / path, os.X_OK)
    assert (root / path).read_text().startswith("#!/usr/bin/env bash\n")
    checked = subprocess.run(["bash", "-n", root / path], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_walk_through_and_all_recipes_give_their_stages_flags_that_they_know(root: Path, tmp_path: Path, base: Path) -> None:
    checkout = copy_checkout(root, tmp_path / "checkout", environment=True)
    done = subprocess.run(["bash", checkout / "runs/runcpu.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [ast.literal_eval(line) for line in (checkout / "commands.txt").read_text().splitlines()]
    assert [words[2] for words in commands if "chat_cli" not in words[2]] == [f"scripts.{name}" for name in STAGES] + ["nanochat.report"]
    for golden in GOLDEN:
        commands += stage_commands(golden.read_text().splitlines())
    for words in commands:
        module = words[words.index("-m") + 1]
        flags = [word for word in words[words.index(module) + 1 :] if word not in ("--", "generate")]
        recipe = RECIPES[module.removeprefix("scripts.")]
        parse(recipe, flags)  # one that it does not know, or refuses, ends the test with what it says
    assert {words[words.index("-m") + 1].removeprefix("scripts.") for words in commands} == set(RECIPES)
