"""The memory of a run, told for this machine and for others, and base_train where it does not suffice."""

from __future__ import annotations

import re

import pytest

from bench.tiny_run import Home
from nanochat.common import UserError
from scripts.memory_estimate import main
from tests.scripts.test_base_train import assert_one_line

CARD = ["--device-type", "cuda", "--depth", "12", "--total-batch-size", "114688", "--num-iterations", "9"]
ENORMOUS = ("--max-seq-len=8192", "--device-batch-size=65536", "--total-batch-size=536870912", "--num-iterations=1")


def test_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARD, "--device-batch-size", "14", "--device-memory", "32"]) == 0
    needs, fits = capsys.readouterr().out.splitlines()
    assert re.match(r"device memory: needs about \d\d\.\d of 32\.0 GiB \(process 1\.0, parameters 1\.1, ", needs)
    assert fits == "largest that fits: --device-batch-size 28"


def test_what_does_not_fit_is_told_by_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARD, "--device-batch-size=28", "--device-memory=24", "--check-memory=0"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "largest that fits: --device-batch-size 14"
    assert main([*CARD, "--device-batch-size=28", "--device-memory=2", "--check-memory=0"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "no batch fits"
    with pytest.raises(UserError, match="--device-batch-size 14 would fit"):
        main([*CARD, "--device-batch-size=28", "--device-memory=24"])


def test_processes_share_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for processes in ("1", "8"):
        main([*CARD, "--device-batch-size=7", f"--processes={processes}", "--device-memory=32"])
        said.append(capsys.readouterr().out)
    assert "optimizer state 1.8" in said[0] and "optimizer state 0.2" in said[1]
    with pytest.raises(UserError, match="114688"):
        main([*CARD, "--device-batch-size=14", "--processes=8"])


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--device-type=cpu", "--depth=2", "--max-seq-len=64", "--device-batch-size=4", "--total-batch-size=512", "--num-iterations=1"]
    assert main([*tiny, "--vocab-size=300"]) == 0
    assert re.search(r"needs about 0\.\d of \d+\.\d GiB", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--processes=0"], "processes is 0"),
        (["--vocab-size=-1"], "vocab_size is -1"),
        (["--device-memory=-1"], "device_memory is -1"),
        (["--device-memory=inf"], "device_memory is inf"),
        (["--device-memory=much"], "invalid value 'much': expected a number"),
        (["--dephth=3"], "did you mean --depth?"),
        (["--device-batch-size=0"], "device_batch_size is 0"),
    ],
)
def test_bad_flags(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*CARD, "--device-batch-size=14", *flags])
    assert ended.value.code == 2
    assert_one_line(capsys.readouterr().err, said)


def test_base_train_says_what_it_needs_and_refuses_what_cannot_fit(home: Home) -> None:
    process = home.train(*ENORMOUS)
    assert process.code == 1
    assert_one_line(process.stderr, "the run needs about", "--device-batch-size", "would fit", "--check-memory 0")
    assert not (home.base / "tokens").exists()  # nothing was prepared for it
    tried = home.train(*ENORMOUS, "--check-memory=0", "--dataset=/nowhere")
    assert "device memory: needs about" in tried.stdout and "/nowhere" in tried.stderr  # on to the next thing
