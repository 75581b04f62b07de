"""base_train in several processes, one of which is about to do something else, fails, dies or hangs: the others name it in one line."""

from __future__ import annotations

import platform
import re
import signal
import time
from pathlib import Path

import pytest

from bench.tiny_run import Home, new_home, write_corpus
from bench.warm_start import Process
from tests.helpers.two_processes import new_world, start_two

STEPS = "--num-iterations=100_000"
HOST = platform.node()
SECONDS = 20.0  # the start of Python on a busy machine included


def assert_refused(processes: list[Process], expected: str, code: int = 1) -> None:
    """All end with the line `expected` alone, in time."""
    begin = time.monotonic()
    assert [process.wait() for process in processes] == [code] * len(processes), processes[0].stderr + processes[1].stderr
    assert time.monotonic() - begin < SECONDS
    assert [process.stderr for process in processes] == [f"error: {expected}\n"] * len(processes)


def started(home: Home, *flags: str) -> list[Process]:
    """A run that has trained some steps."""
    processes = start_two(home, STEPS, *flags)
    processes[0].until(lambda: home.logged(3))
    return processes


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--matrix-lr=0.03", "matrix_lr differs: rank 1 on {host} has 0.03; rank 0 on {host} has 0.02"),
        ("--save-every=3", "save_every differs: rank 1 on {host} has 3; rank 0 on {host} has -1"),
    ],
)
def test_another_command_is_refused(home: Home, flag: str, values: str) -> None:
    before = home.contents()
    processes = start_two(home, STEPS, second=[flag])
    assert_refused(processes, f"{values.format(host=HOST)}; start all processes with the same command and environment")
    assert home.contents() == before


def test_other_data_are_refused(home: Home, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", seed=1)
    processes = start_two(home, STEPS, second=[f"--dataset={tmp_path / 'corpus'}"])
    assert [process.wait() for process in processes] == [1, 1]
    assert processes[0].stderr == processes[1].stderr and processes[0].stderr.count("\n") == 1
    assert processes[0].stderr.startswith(f"error: data differs: rank 1 on {HOST} has ")
    assert not home.saved_steps() and not home.metrics()


def test_the_same_data_elsewhere_will_do(home: Home, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    processes = start_two(home, "--num-iterations=2", second=[f"--dataset={tmp_path / 'corpus'}", "--run=other"])
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr


def test_base_folders_that_are_not_one_are_refused(home: Home, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other", home.corpus, home.warm)
    processes = start_two(home, STEPS, other=other)
    assert_refused(
        processes,
        f"rank 1 on {HOST} does not share the base folder of rank 0: {other.base} there is not {home.base} on {HOST}; give all machines "
        "one shared folder and set NANOCHAT_BASE_DIR to it",
    )
    assert not home.contents() and not other.contents() and not list(home.base.glob(".*"))


def test_one_base_folder_by_two_names_will_do(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to(home.base)
    processes = start_two(home, "--num-iterations=2", other=Home(tmp_path / "mounted", home.corpus, home.warm))
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    assert home.saved_steps() == [2] and not list(home.base.glob(".*"))


def test_a_process_that_fails_is_named_with_its_error(home: Home, tmp_path: Path) -> None:
    first, second = start_two(home, STEPS, second=[f"--dataset={tmp_path}"])
    assert (first.wait(), second.wait()) == (1, 1)
    assert second.stderr.count("\n") == 1 and str(tmp_path) in second.stderr
    why = second.stderr.removeprefix("error: ").strip()
    assert first.stderr.startswith(f"error: rank 1 on {HOST} failed while this process waited for it in all_gather (peers.py:")
    assert first.stderr.endswith(f": {why}; then run again to resume\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_is_named(home: Home, rank: int) -> None:
    processes = started(home)
    processes[rank].signal(signal.SIGKILL)
    other, begin = processes[1 - rank], time.monotonic()
    assert other.wait() == 1 and time.monotonic() - begin < SECONDS
    assert other.stderr.startswith(f"error: rank {rank} ") and other.stderr.count("\n") == 1, other.stderr
    assert " died while this process waited for it in " in other.stderr and other.stderr.endswith("; run again to resume\n")


def test_a_process_that_never_comes_is_waited_for_until_the_timeout(home: Home) -> None:
    world = new_world() | {"RANK": "0", "LOCAL_RANK": "0"}
    process = home.start(STEPS, "--collective-timeout=2", environment=world)
    assert process.wait(SECONDS) == 1 and not home.contents()
    where = f"127.0.0.1:{world['MASTER_PORT']}"
    assert process.stderr.startswith(f"error: rank 0 did not meet all 2 processes at {where} within 2 s ("), process.stderr
    assert process.stderr.count("\n") == 1


def test_a_process_that_hangs_is_named(home: Home) -> None:
    first, second = started(home, "--collective-timeout=8")
    second.signal(signal.SIGSTOP)
    begin = time.monotonic()
    assert first.wait() == 1 and time.monotonic() - begin < SECONDS
    second.signal(signal.SIGKILL)
    place = r"\w*reduce\w* \((trainer|gradient_exchange)\.py:"  # of the loss, or of gradients in the background
    assert re.match(rf"error: rank 1 on {HOST} did not come to {place}", first.stderr), first.stderr
    assert " within 8 s; " in first.stderr and first.stderr.count("\n") == 1


def test_the_slowest_process_is_in_the_records(home: Home) -> None:
    processes = started(home)

    def slept() -> bool:
        return any(record["train/slowest_rank"] == 1 and record["train/slowest_rank_ms"] > 900 for record in home.metrics())

    for _ in range(10):  # one that is stopped in the optimizer does not keep others waiting for its gradients
        if not slept():
            processes[1].signal(signal.SIGSTOP)
            time.sleep(1.0)
            processes[1].signal(signal.SIGCONT)
            step = home.metrics()[-1]["step"]
            processes[0].until(lambda step=step: home.logged(step + 2))
    assert slept()
    for process in processes:
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0]


def test_a_later_stage_compares_and_trains_too(home: Home) -> None:
    assert home.train("--num-iterations=1", "--max-seq-len=128", "--total-batch-size=1024").code == 0
    tune = ("--mixture=demo", "--num-iterations=2", "--eval-every=-1", "--compile=0", "--device-type=cpu")
    for seed, code in (("43", 1), ("42", 0)):
        world = new_world()
        flags = {"0": tune, "1": (*tune, f"--seed={seed}")}
        processes = [home.begin("scripts.mid_train", *flags[rank], environment=world | {"RANK": rank}) for rank in flags]
        assert [process.wait() for process in processes] == [code, code], processes[0].stderr + processes[1].stderr
        named = f"error: seed differs: rank 1 on {HOST} has 43; rank 0 on {HOST} has 42; start all processes"
        assert [process.stderr.startswith(named) for process in processes] == [code == 1] * 2
        assert list((home.base / "mid_checkpoints").rglob("step_*")) == ([] if code else [home.base / "mid_checkpoints/tiny/step_0000002"])
