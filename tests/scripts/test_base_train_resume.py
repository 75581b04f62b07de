"""Runs of base_train that are killed, stopped or damaged and then continued: they end as if nothing had happened, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.tiny_run import QUIET, SHAPE, Home, new_home, write_corpus
from bench.warm_start import Process, WarmStart
from nanochat.common import ROOT
from nanochat.data.tokenizer import Tokenizer

STEPS = 16
# Step 12 is both saved and evaluated. The evaluation takes long enough for a signal to find it at work.
FLAGS = (
    f"--num-iterations={STEPS}",
    "--warmup-steps=5",
    "--save-every=4",
    "--keep-checkpoints=-1",
    "--eval-every=12",
    "--eval-tokens=8192",
)


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Callable[[str], Home]:
    """By dtype: a run that nothing interrupted, with all its checkpoints. Not to be changed."""
    done: dict[str, Home] = {}

    def get(dtype: str) -> Home:
        if dtype not in done:
            done[dtype] = new_home(tmp_path_factory.mktemp("whole") / dtype, corpus, warm)
            process = done[dtype].train(*FLAGS, environment={"NANOCHAT_DTYPE": dtype})
            assert process.code == 0, process.stderr
        return done[dtype]

    return get


@pytest.fixture
def whole(whole_runs: Callable[[str], Home]) -> Home:
    """The uninterrupted run in fp32."""
    return whole_runs("fp32")


def starting(home: Home) -> bool:
    return home.metrics_file.parent.exists()


def logged_past_a_checkpoint(home: Home) -> bool:
    return home.logged(6)


def saved_and_not_evaluated(home: Home) -> bool:
    return 12 in home.saved_steps()


def saved_and_evaluated(home: Home) -> bool:
    return home.logged(12, "val/bpb")


def saving(home: Home) -> bool:
    return any(home.checkpoints.glob(".step_*.tmp")) or STEPS in home.saved_steps()


def start_until(home: Home, moment: Callable[[Home], bool], dtype: str = "fp32") -> Process:
    """A run that has come to `moment`."""
    process = home.start(*FLAGS, environment={"NANOCHAT_DTYPE": dtype})
    process.until(lambda: moment(home))
    return process


@pytest.mark.parametrize(
    ("moment", "dtype"),
    [
        (logged_past_a_checkpoint, "fp32"),
        (logged_past_a_checkpoint, "bf16"),
        (saved_and_not_evaluated, "fp32"),
        (saved_and_evaluated, "fp32"),
        (saving, "fp32"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_killed_run_is_continued_exactly(
    home: Home,
    whole_runs: Callable[[str], Home],
    moment: Callable[[Home], bool],
    dtype: str,
) -> None:
    process = start_until(home, moment, dtype)
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    if moment is saved_and_not_evaluated:
        assert not home.logged(12, "val/bpb"), "the kill came too late to try anything"
    assert home.metrics()[-1]["step"] < STEPS
    assert home.train(*FLAGS, environment={"NANOCHAT_DTYPE": dtype}).code == 0
    home.assert_same_training(whole_runs(dtype), STEPS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", [starting, logged_past_a_checkpoint, saved_and_not_evaluated, saving], ids=lambda m: m.__name__)
def test_a_stopped_run_saves_itself_and_is_continued_exactly(
    home: Home,
    whole: Home,
    moment: Callable[[Home], bool],
    number: int,
) -> None:
    process = start_until(home, moment)
    process.signal(number)
    assert process.wait(60) == 0, process.stderr
    name = signal.Signals(number).name
    assert process.stderr == f"{name}: stopping at the next step boundary; the run is saved first\n"
    (step,) = home.saved_steps()[-1:]
    assert step < STEPS
    assert process.stdout.splitlines()[-1] == f"stopped by {name} after step {step} of {STEPS}; run again to continue"
    if moment is saved_and_not_evaluated:
        assert step == 12 and not home.logged(12, "val/bpb"), "the evaluation was not given up"
    assert home.train(*FLAGS).code == 0
    home.assert_same_training(whole, STEPS)


def test_a_run_is_saved_when_the_reader_of_its_output_has_ended(home: Home) -> None:
    """As in `base_train | tee log`, where Ctrl-C ends tee as well."""
    command = [sys.executable, "-m", "scripts.base_train", *SHAPE, *QUIET, f"--dataset={home.corpus}", "--num-iterations=100_000"]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(home.base), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert any(line.startswith(b"step 000003") for line in process.stdout)
            process.stdout.close()
            step = home.metrics()[-1]["step"]
            deadline = time.monotonic() + 60
            while not home.logged(step + 3) and time.monotonic() < deadline:  # it goes on
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, process.stderr.read()
        finally:
            process.kill()
    assert home.saved_steps()[-1] >= step + 3


def test_a_finished_run_is_not_trained_again(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    manifest = again.checkpoints / f"step_{STEPS:07d}" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    process = again.train(*FLAGS)
    assert process.code == 0
    assert "stopped" not in process.stdout
    assert manifest.stat().st_mtime_ns == written
    assert again.figures() == whole.figures()
    before, after = whole.contents(), again.contents()
    assert {name for name in after if after[name] != before.get(name)} <= {"base_runs/tiny/metrics.jsonl"}
    assert before.keys() == after.keys()


def test_resume_from_a_step_goes_back(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    process = again.start(*FLAGS, "--resume=8")
    process.until(lambda: not again.logged(12))
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert again.saved_steps()[-1] < STEPS, "what was abandoned is still the newest checkpoint"
    assert again.train(*FLAGS).code == 0
    again.assert_same_training(whole, STEPS)
    assert not list(again.checkpoints.parent.glob("*.old*"))


def test_resume_never_starts_anew_and_keeps_what_was_there(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    process = again.train(*FLAGS, "--resume=never")
    assert process.code == 0
    aside = again.checkpoints.with_name("tiny.old1")
    assert f"earlier checkpoints are now in {aside}" in process.stdout
    assert (aside / "step_0000016" / "model.safetensors").read_bytes() == whole.tensors(STEPS)["model.safetensors"]
    again.assert_same_training(whole, STEPS)


def test_an_unknown_step_to_resume_from_is_refused(whole: Home) -> None:
    before = whole.contents()
    process = whole.train(*FLAGS, "--resume=9")
    assert process.code == 1
    assert process.stderr == f"error: {whole.checkpoints} has no checkpoint of step 9; it has: 4, 8, 12, 16\n"
    assert whole.contents() == before


def damage(home: Home, step: int) -> None:
    """Flips one bit of the saved weights."""
    path = home.checkpoints / f"step_{step:07d}" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    shutil.rmtree(again.checkpoints / "step_0000016")
    damage(again, 12)
    process = again.train(*FLAGS)
    assert process.code == 0
    assert f"checkpoint of step 12 in {again.checkpoints} is refused: model.safetensors" in process.stdout
    assert f"checkpoint of step 8 in {again.checkpoints} is valid" in process.stdout
    again.assert_same_training(whole, STEPS)


def test_without_a_valid_checkpoint_nothing_is_trained(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    for step in again.saved_steps():
        damage(again, step)
    before = again.contents()
    process = again.train(*FLAGS)
    assert process.code == 1
    assert (
        process.stderr
        == f"error: no checkpoint in {again.checkpoints} is valid; start again with --resume never (they are then set aside)\n"
    )
    assert again.contents() == before
    assert again.train(*FLAGS, "--resume=never").code == 0
    again.assert_same_training(whole, STEPS)


def test_a_full_disk_leaves_the_old_checkpoint_and_the_run_goes_on_when_there_is_room(home: Home, whole: Home) -> None:
    process = start_until(home, logged_past_a_checkpoint)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    before = {step: home.tensors(step) for step in home.saved_steps()}
    process = home.train(*FLAGS, file_size_limit=100_000)  # less than the weights, more than all other files
    assert process.code == 1
    assert process.stderr.startswith("error: cannot save step ") and process.stderr.count("\n") == 1
    assert "File too large" in process.stderr and "earlier checkpoints are intact" in process.stderr
    assert {step: home.tensors(step) for step in home.saved_steps()} == before
    assert not list(home.checkpoints.glob(".*"))
    assert home.train(*FLAGS).code == 0
    home.assert_same_training(whole, STEPS)


def test_a_disk_that_is_full_for_a_while_costs_nothing(home: Home, whole: Home) -> None:
    process = home.start(*FLAGS, file_size_limit=100_000)
    process.until(lambda: "alert: step 4: cannot save step 4 " in process.stdout)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert process.wait() == 0 and process.stderr == ""
    assert "File too large" in process.stdout and "training goes on and saves again when that is due" in process.stdout
    assert 4 not in home.saved_steps()
    (alert,) = [json.loads(line) for line in home.metrics_file.with_name("alerts.jsonl").read_text().splitlines()][:1]
    assert alert["step"] == 4 and alert["metric"] == "checkpoint"
    home.assert_same_training(whole, STEPS)


DIFFERENT = {
    "depth": ("--depth=3",),
    "head_dim": ("--head-dim=8",),
    "max_seq_len": ("--max-seq-len=16",),
    "packing": ("--packing=stream",),
    "total_batch_size": ("--total-batch-size=512",),
    "num_iterations": ("--num-iterations=15",),
    "seed": ("--seed=43",),
    "matrix_lr": ("--matrix-lr=0.03",),
    "warmdown_ratio": ("--warmdown-ratio=0.5",),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_checkpoint_of_another_run_is_refused(whole: Home, name: str) -> None:
    before = whole.contents()
    process = whole.train(*FLAGS, *DIFFERENT[name])
    assert process.code == 1
    assert process.stderr.count("\n") == 1
    assert f"the checkpoint in {whole.checkpoints} has " in process.stderr
    assert name in process.stderr and "--model-tag" in process.stderr and "--resume never" in process.stderr
    assert whole.contents() == before


def test_a_checkpoint_of_another_tokenizer_is_refused(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    Tokenizer.train(write_corpus(tmp_path / "other", seed=1), 300).save(again.base / "tokenizer")
    before = again.contents()
    process = again.train(*FLAGS)
    assert process.code == 1
    assert process.stderr.startswith(f"error: the checkpoint in {again.checkpoints} has tokenizer ") and process.stderr.count("\n") == 1
    assert again.contents() == before


def test_what_does_not_change_the_training_may_change(whole: Home, tmp_path: Path) -> None:
    again = whole.copy(tmp_path / "again")
    for step in (8, 12, 16):
        shutil.rmtree(again.checkpoints / f"step_{step:07d}")
    process = again.train(*FLAGS, "--save-every=-1", "--log-every=2", "--keep-checkpoints=1", "--chunked-ce=1")
    assert process.code == 0
    assert again.saved_steps() == [STEPS]
    assert again.tensors(STEPS) == whole.tensors(STEPS)


def compiles_a_kernel(group: int) -> bool:
    """Whether a C++ compiler of a process group is at work on a kernel, and not on a trial or a header, whose failure torch survives."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, rest = stat.read_text(encoding="utf-8").partition("(")[2].rpartition(")")
            if name == "cc1plus" and int(rest.split()[2]) == group and b".main.cpp" in stat.with_name("cmdline").read_bytes():
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs the compiler that torch.compile calls")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_whole_process_group_while_compiling(home: Home, tmp_path: Path, number: int) -> None:
    """A terminal sends Ctrl-C to the compilers as well, torchrun its SIGTERM: they must not take the run with them."""
    flags = ("--num-iterations=4", "--save-every=1", "--compile=1")
    process = home.start(*flags)
    process.until(lambda: compiles_a_kernel(process.pid), 120)
    os.killpg(process.pid, number)
    assert process.wait(120) == 0, process.stderr
    assert process.stderr == f"{signal.Signals(number).name}: stopping at the next step boundary; the run is saved first\n"
    assert home.saved_steps() == [1]
    assert home.train(*flags).code == 0
    whole = new_home(tmp_path / "whole", home.corpus, home.warm)
    assert whole.train(*flags, environment={"TORCHINDUCTOR_CACHE_DIR": str(home.base / "compile_cache")}).code == 0
    home.assert_same_training(whole, 4)
