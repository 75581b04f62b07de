"""base_train --mc and the stages after it: the model is that of the run without a memory bit for bit, unless --mc-joint says otherwise."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from bench.tiny_run import TAG, Home, new_home
from bench.warm_start import WarmStart
from nanochat.checkpoint.store import CheckpointStore
from tests.scripts.test_base_train_mc import FLAGS, STEPS, with_memory, without_timers

# As many micro-batches as rows allow, and a gradient that is clipped in every step.
RUN = (*FLAGS, "--grad-clip=0.05", "--device-batch-size=2", "--eval-every=-1", "--save-every=-1")
LAYERED = ("--mc", "--block-size=8", "--gistnet-type=layered", "--mc-lens-decisions=2", "--gist-slots=2")
KINDS = {
    "layered": LAYERED,
    "context": ("--mc", "--block-size=8", "--gistnet-type=context", "--mc-gist-recon-weight=0.1", "--mc-num-random-variants=2"),
    "transformer": ("--mc", "--block-size=8", "--gistnet-type=transformer", "--mc-priority-sampling", "--mc-rows-every=1"),
}


def weights(home: Home, stage: str = "base") -> dict[str, torch.Tensor]:
    """The model's newest weights."""
    store = CheckpointStore(home.base / f"{stage}_checkpoints" / home.tag)
    return {name: w for name, w in store.load_newest().tensors["model"].items() if name.startswith("model.")}


def assert_equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys() and len(mine) > 10
    for name, weight in theirs.items():
        assert torch.equal(mine[name], weight), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A run without a memory. Not to be changed."""
    home = new_home(tmp_path_factory.mktemp("plain") / "base", corpus, warm)
    process = home.train(*RUN)
    assert process.code == 0, process.stderr
    return home


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_the_baselines_bit_for_bit(plain: Home, home: Home, kind: str) -> None:
    process = home.train(*RUN, *KINDS[kind])
    assert process.code == 0, process.stderr
    assert_equal(weights(with_memory(home)), weights(plain))
    mine, theirs = ([record for record in h.metrics() if "train/loss" in record] for h in (with_memory(home), plain))
    assert len(mine) == STEPS
    for key in ("train/loss", "train/grad_norm", "train/data_hash"):
        assert [record[key] for record in mine] == [record[key] for record in theirs], key
    assert max(record["train/grad_norm"] for record in theirs) > 0.05, "nothing was clipped"
    assert all("mc/gist_kl" in record and "mc/lens_loss" in record for record in mine)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_so_they_are_in_other_dtypes(home: Home, precision: str) -> None:
    environment = {"NANOCHAT_DTYPE": precision}
    for memory in ((), LAYERED):
        process = home.start(*RUN, "--num-iterations=12", *memory, environment=environment)
        assert process.wait() == 0, process.stderr
    assert_equal(weights(with_memory(home)), weights(home))


def test_later_stages_go_on_as_without_a_memory(plain: Home, tmp_path: Path) -> None:
    home = plain.copy(tmp_path / "again")
    assert home.train(*RUN, *LAYERED).code == 0
    flags = ("--mixture=demo", "--num-iterations=4", "--eval-every=-1", "--compile=0", "--grad-clip=0.05", f"--model-tag={TAG}")
    for module, stage in (("scripts.mid_train", "mid"), ("scripts.chat_sft", "sft")):
        for memory in ((), ("--mc",)):
            process = home.run(module, *flags, *memory)
            assert process.code == 0, process.stderr
        assert_equal(weights(with_memory(home), stage), weights(home, stage))


@pytest.mark.parametrize("joint", ["0", "0.1", "mean"])
def test_a_killed_run_of_layered_gists_is_continued_exactly(plain: Home, tmp_path: Path, joint: str) -> None:
    """With a weight, a copy of the model that the run starts from teaches it: it is in no checkpoint, and made again."""
    whole = plain.copy(tmp_path / "whole")
    flags = (*RUN, *LAYERED, f"--mc-joint={joint}", "--num-iterations=20", "--save-every=5", f"--init-from={TAG}")
    assert whole.train(*flags).code == 0
    home = plain.copy(tmp_path / "killed")
    process = home.start(*flags)
    process.until(lambda: with_memory(home).logged(12))
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert with_memory(home).metrics()[-1]["step"] < 20
    assert home.train(*flags).code == 0
    assert without_timers(with_memory(home)) == without_timers(with_memory(whole))
    assert with_memory(home).tensors(20) == with_memory(whole).tensors(20)
    names = CheckpointStore(with_memory(home).checkpoints).load_newest().tensors["model"]
    assert not [name for name in names if "teacher" in name]
    changed = any(not torch.equal(weight, weights(plain).get(name, weight)) for name, weight in weights(with_memory(home)).items())
    assert changed and home.train(*flags, "--mc-joint=0.3").code == 1, "another objective is another run"


def test_a_teacher_that_is_no_longer_there_is_refused(plain: Home, tmp_path: Path) -> None:
    home = plain.copy(tmp_path / "again")
    flags = (*RUN, *LAYERED, "--mc-joint=0.1", f"--init-from={TAG}")
    assert home.train(*flags, "--num-iterations=3").code == 0
    assert home.train(*RUN, "--num-iterations=3", "--resume=never").code == 0  # other weights under the same name
    process = home.train(*flags, "--num-iterations=3")
    assert process.code == 1 and "has init_weights" in process.stderr and process.stderr.count("\n") == 1
