"""Two runs that want the same folders, and names that are no folders of their own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from bench.tiny_run import Home
from bench.warm_start import Process, WarmStart
from nanochat.runtime.folder_lock import hold

LONG = "--num-iterations=100_000"


def assert_refused(process: Process, *parts: str, code: int = 1) -> None:
    assert process.code == code, process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1, process.stderr
    for part in parts:
        assert part in process.stderr


def test_a_second_run_is_refused_while_the_first_lives_and_goes_on_when_it_is_dead(home: Home) -> None:
    first = home.start(LONG, "--save-every=4")
    first.until(lambda: home.saved_steps() != [])
    lock = json.loads(home.metrics_file.with_name("lock.json").read_text())
    assert lock["pid"] == first.pid
    for flags in ((), ("--resume=never",)):
        second = home.train(LONG, *flags)
        named = f"{home.metrics_file.parent} is in use by process {first.pid} on {lock['host']}, since {lock['since']}"
        assert_refused(second, named, "wait for it, or use another --model-tag")
    assert not list(home.checkpoints.parent.glob("*.old*")) and first.poll() is None
    step = home.metrics()[-1]["step"]
    first.until(lambda: home.logged(step + 2))
    first.signal(signal.SIGKILL)
    first.wait()
    third = home.start(LONG, "--save-every=4")
    third.until(lambda: home.logged(step + 3))
    assert f"was left behind by process {first.pid}" in third.stdout
    third.signal(signal.SIGTERM)
    assert third.wait() == 0
    assert not home.metrics_file.with_name("lock.json").exists()


def test_every_stage_has_its_lock(home: Home) -> None:
    assert home.train("--num-iterations=1").code == 0
    before = home.contents()
    commands = {
        "mid_runs/tiny": ("scripts.mid_train", "--mixture=demo"),
        "sft_runs/tiny": ("scripts.chat_sft", "--mixture=demo"),
        "rl_runs/tiny": ("scripts.chat_rl", "--source=base", "--task=arithmetic"),
        "tokenizer": ("scripts.tok_train", f"--dataset={home.corpus}", "--vocab-size=300"),
    }
    for folder, command in commands.items():
        with hold(home.base / folder, print, ""):
            assert_refused(home.run(*command), f"{home.base / folder} is in use by process {os.getpid()} on ")
    assert home.contents() == before


@pytest.mark.parametrize("tag", ["../tokenizer", "..", ".", "a/b", "/tmp/x", "a\\b", ".hidden", "a\nb", os.fsdecode(b"\xe9"), "x" * 300])
def test_a_tag_cannot_leave_its_folder(home: Home, tag: str) -> None:
    before = {path: path.read_bytes() for path in home.base.rglob("*") if path.is_file()}
    for flags in ([f"--model-tag={tag}", "--resume=never"], [f"--init-from={tag}"]):
        assert_refused(home.train("--num-iterations=1", *flags), f"invalid {flags[0][2:].partition('=')[0].replace('-', '_')} ", code=2)
    assert {path: path.read_bytes() for path in home.base.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("module", ["mid_train", "chat_sft", "chat_rl"])
def test_nor_can_it_in_a_later_stage(warm: WarmStart, tmp_path: Path, module: str) -> None:
    process = warm.start(f"scripts.{module}", ["--model-tag=../tokenizer"], {"NANOCHAT_BASE_DIR": str(tmp_path)})
    process.wait()
    assert_refused(process, "invalid model_tag '../tokenizer'", code=2)
    assert list(tmp_path.iterdir()) == []
