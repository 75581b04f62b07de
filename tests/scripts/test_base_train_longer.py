"""Runs that go on after their end, with more iterations."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from bench.tiny_run import Home, new_home
from bench.warm_start import WarmStart
from nanochat.train.schedule import Leg, ScheduleFlags

STEPS, MORE = 8, 14
FLAGS = ("--warmup-steps=3", "--save-every=4", "--keep-checkpoints=-1", "--eval-every=6", "--eval-tokens=4096")
LONGER = (*FLAGS, f"--num-iterations={MORE}")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A finished run. Not to be changed."""
    home = new_home(tmp_path_factory.mktemp("short") / "base", corpus, warm)
    assert home.train(*FLAGS, f"--num-iterations={STEPS}").code == 0
    return home


@pytest.fixture(scope="module")
def longer(short: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same run after it has gone on."""
    home = short.copy(tmp_path_factory.mktemp("longer") / "base")
    process = home.train(*LONGER)
    assert process.code == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("going on ")]
    assert line.startswith("going on from step 8 to 14 with the optimizer and the data as they are: the learning rate rises from ")
    return home


def test_its_beginning_is_that_of_the_short_run(short: Home, longer: Home) -> None:
    """Bit for bit, with the evaluation at the end of the short run."""
    before = short.figures()
    assert longer.figures()[: len(before)] == before and "val/bpb" in before[-1]
    assert longer.tensors(STEPS) == short.tensors(STEPS)
    assert longer.metrics()[-1]["step"] == MORE and longer.saved_steps() == [4, 8, 12, 14]


def test_the_rate_rises_again_and_the_data_goes_on(short: Home, longer: Home, tmp_path: Path) -> None:
    flags = ScheduleFlags(warmup_steps=3)
    rates = {record["step"]: record["train/lrm"] for record in longer.metrics() if "train/lrm" in record}
    leg = Leg().next(flags, STEPS, STEPS)
    assert leg.lr == rates[STEPS] < rates[STEPS + 1] < rates[STEPS + 2]
    assert [rates[step + 1] for step in range(STEPS, MORE)] == [leg.multipliers(flags, step, MORE)["lr"] for step in range(STEPS, MORE)]
    straight = short.copy(tmp_path / "straight")
    shutil.rmtree(straight.checkpoints)
    assert straight.train(*LONGER).code == 0
    hashes, theirs = (
        [record["train/data_hash"] for record in home.metrics() if "train/data_hash" in record] for home in (longer, straight)
    )
    assert hashes == theirs, "the rows are those of a run that was long from its beginning"


@pytest.mark.parametrize("killed_at", [STEPS + 1, 12])
def test_a_longer_run_that_is_killed_is_continued_exactly(short: Home, longer: Home, tmp_path: Path, killed_at: int) -> None:
    home = short.copy(tmp_path / "killed")
    process = home.start(*LONGER)
    process.until(lambda: home.logged(killed_at))
    process.signal(signal.SIGKILL)
    process.wait()
    assert killed_at > STEPS + 1 or home.metrics()[-1]["step"] < MORE
    assert home.train(*LONGER).code == 0
    home.assert_same_training(longer, MORE)


def test_it_can_go_on_twice_and_from_before_the_warm_down(short: Home, longer: Home, tmp_path: Path) -> None:
    twice = longer.copy(tmp_path / "twice")
    process = twice.train(*FLAGS, "--num-iterations=16")
    assert process.code == 0 and "going on from step 14 to 16" in process.stdout
    earlier = short.copy(tmp_path / "earlier")
    process = earlier.train(*FLAGS, "--num-iterations=40", "--warmdown-ratio=0.65", "--resume=4", "--eval-every=-1")
    assert process.code == 0 and "going on from step 4 to 40" in process.stdout
    rates = {record["step"]: record["train/lrm"] for record in earlier.metrics() if "train/lrm" in record}
    assert [rates[step] for step in range(5, 12)] == [1.0] * 7, "the rate stays at its peak"


def test_a_shorter_run_is_refused(longer: Home) -> None:
    before = longer.contents()
    process = longer.train(*FLAGS, f"--num-iterations={STEPS}")
    assert process.code == 1 and "has num_iterations 14, this run 8" in process.stderr
    assert longer.contents() == before
