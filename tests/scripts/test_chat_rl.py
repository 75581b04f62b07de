"""chat_rl: a chat model learns what is rewarded; resumed bit for bit; refused where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest

from bench.tiny_run import TAG, Home, new_home
from bench.warm_start import WarmStart
from nanochat.checkpoint.store import CheckpointStore
from tests.helpers.hub_files import write_lines

BASE = ("--max-seq-len=128", "--total-batch-size=512", "--num-iterations=12", "--warmup-steps=1", "--lr-mult=3")
SFT = ("--device-type=cpu", "--compile=0", "--log-every=-1", "--eval-every=-1", "--mixture=lists:do=first:items=3@400", "--epochs=1")
ROLLOUTS = ("--prompts-per-step=4", "--samples=4", "--max-tokens=8", "--device-batch-size=8")
RL = ("--device-type=cpu", "--compile=0", "--log-every=1", "--task=lists:do=first:items=3", *ROLLOUTS, "--eval-every=4", "--eval-prompts=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A fine-tuned model that ends its replies."""
    home = new_home(tmp_path_factory.mktemp("trained") / "base", corpus, warm)
    assert home.train(*BASE).code == 0
    done = home.run("scripts.chat_sft", *SFT, "--warmup-steps=0", "--lr-mult=3")
    assert done.code == 0, done.stderr
    return dataclasses.replace(home, stage="rl")


def test_a_killed_run_goes_on_to_the_same_weights(trained: Home, tmp_path: Path) -> None:
    flags = (*RL, "--num-iterations=6", "--save-every=2", "--keep-checkpoints=-1")
    whole, broken = (trained.copy(tmp_path / name) for name in ("whole", "broken"))
    done = whole.run("scripts.chat_rl", *flags)
    assert done.code == 0 and f"rl: {TAG}, from sft step" in done.stdout, done.stderr
    records = whole.metrics()
    assert all(0 <= record["rl/reward"] <= 1 and record["rl/reply_tokens"] >= 1 for record in records if "rl/reward" in record)
    assert [record["step"] for record in records if "rl/reward" in record] == list(range(1, 7))
    assert [record["step"] for record in records if "rl/accuracy" in record] == [4, 6]
    values = json.loads((whole.base / "report" / "chat_rl.json").read_text())["values"]
    assert values["task"] == "lists:do=first:items=3" and values["replies per prompt"] == 4

    process = broken.begin("scripts.chat_rl", *flags)
    process.until(lambda: broken.logged(3))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = broken.run("scripts.chat_rl", *flags)
    assert again.code == 0, again.stderr
    broken.assert_same_training(whole, 6)


def test_a_model_with_a_memory_learns_too(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    memory = ("--mc", "--block-size=8", "--mc-num-random-variants=1", "--mc-train-wc-length=60")
    assert home.train(*BASE, *memory, "--num-iterations=2").code == 0
    done = home.run("scripts.chat_rl", *RL, "--mc", "--num-iterations=2", "--eval-every=-1")
    assert done.code == 0 and f"rl: {TAG}-mc, from base step 2" in done.stdout, done.stderr
    state = CheckpointStore(home.base / "rl_checkpoints" / f"{TAG}-mc").load(2, ("model",)).tensors["model"]
    assert any(name.startswith("gistnet.") for name in state) and (home.base / "report" / "chat_rl_mc.json").exists()
    refused = home.run("scripts.chat_rl", *RL, "--mc", "--row-tokens=64")
    assert refused.code == 1 and "are exactly 128, because it has a memory" in refused.stderr


def test_the_prompts_of_a_file(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    rows = [{"instruction": f"What is the first of the list: {x} b", "output": x, "id": 1} for x in "acdefghijklmnopqrstuvwxyz"]
    path = write_lines(tmp_path / "a, b.jsonl", [*rows, {"prompt": "q", "completion": None}])
    done = home.run("scripts.chat_rl", *RL, f"--task=customjson:{path}", "--num-iterations=1")
    assert done.code == 0, done.stderr
    assert f"customjson:{path}: 25 conversations; left out: 1 of 26 rows without a reply to learn" in done.stdout
    values = json.loads((home.base / "report" / "chat_rl.json").read_text())["values"]
    assert values["epochs"] == 4 / 24, "one is held out"


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--task=customjson:/nowhere.jsonl"], 1, "/nowhere.jsonl"),
        (["--row-tokens=4096"], 1, "row_tokens is 4096; the rows of .* are at most 128"),
        (["--prompts-per-step=3"], 1, "3 prompts × 4 samples do not divide over 1 processes in micro-batches of 8 rows"),
        (["--source=mid"], 1, "no model in .*mid_checkpoints|no model tiny in"),
        (["--samples=1"], 2, "samples is 1; it must be at least 2: a reply is compared with the others"),
        (["--temperature=0"], 2, "temperature is 0.0; it must be at least 0.0001"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(trained: Home, flags: list[str], code: int, says: str) -> None:
    before = trained.contents()
    done = trained.run("scripts.chat_rl", *RL, *flags)
    assert done.code == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(says, line), line
    assert trained.contents() == before
