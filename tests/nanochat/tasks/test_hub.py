"""Data sets out of a hub, then out of its cache: the real library, over real sockets, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.tasks.registry import open_task
from tests.helpers.hub_files import ARC, GSM8K, MMLU, SMOLTALK, write_parquet
from tests.helpers.hub_server import card, hub

ASK = """
import json, sys, time
from nanochat.common import UserError
from nanochat.tasks.registry import open_task
for name in sys.argv[1:]:
    for split in ("train", "test"):
        try:
            task = open_task(name, split, 0)
            print(json.dumps([name, split, [c["messages"] for c in task], task.fingerprint]))
        except UserError as error:
            print(json.dumps([name, split, str(error), None]))
"""
NAMES = ("gsm8k", "arc-easy", "arc-challenge", "mmlu", "smoltalk")


@pytest.fixture
def repositories(tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """The data sets with the configurations and splits that they have on the hub."""

    def parquet(rows: list[dict]) -> bytes:
        return write_parquet(tmp_path / "x.parquet", rows).read_bytes()

    def splits(config: str, **data: list[dict]) -> dict[str, bytes]:
        return {f"{config}/{split}-00000-of-00001.parquet": parquet(rows) for split, rows in data.items()}

    def named(*configs: str, **patterns: str) -> bytes:
        return card({config: {split: f"{config}/{pattern}" for split, pattern in patterns.items()} for config in configs})

    both = {"train": "train-*", "test": "test-*"}
    return {
        "openai/gsm8k": {"README.md": named("main", **both), **splits("main", train=GSM8K[:2], test=GSM8K[2:])},
        "allenai/ai2_arc": {
            "README.md": named("ARC-Challenge", "ARC-Easy", **both),
            **splits("ARC-Easy", train=ARC[:1], test=ARC[1:]),
            **splits("ARC-Challenge", train=ARC[1:], test=ARC[:1]),
        },
        "cais/mmlu": {
            "README.md": named("all", auxiliary_train="auxiliary_train-*", test="test-*"),
            **splits("all", auxiliary_train=MMLU, test=MMLU[:1]),
        },
        "HuggingFaceTB/smol-smoltalk": {
            "README.md": card({"default": {split: f"data/{pattern}" for split, pattern in both.items()}}),
            **splits("data", train=SMOLTALK, test=SMOLTALK[:1]),
        },
    }


def ask(root: Path, endpoint: str, home: Path, *names: str) -> dict[tuple[str, str], tuple[list | str, str | None]]:
    """What a new process finds, by name and split: its conversations, or what it says instead; and the fingerprint."""
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    surroundings = os.environ | given
    done = subprocess.run([sys.executable, "-c", ASK, *names], env=surroundings, cwd=root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return {(name, split): (found, fingerprint) for name, split, found, fingerprint in map(json.loads, done.stdout.splitlines())}


def test_what_was_downloaded_once_is_there_without_a_hub(root: Path, tmp_path: Path, repositories: dict[str, dict[str, bytes]]) -> None:
    with hub(repositories) as endpoint:
        online = ask(root, endpoint, tmp_path / "home", *NAMES)
    counts = {key: len(found) for key, (found, _) in online.items()}
    assert counts == {
        ("gsm8k", "train"): 2, ("gsm8k", "test"): 1, ("arc-easy", "train"): 1, ("arc-easy", "test"): 1, ("arc-challenge", "train"): 1,
        ("arc-challenge", "test"): 1, ("mmlu", "train"): 2, ("mmlu", "test"): 1, ("smoltalk", "train"): 2, ("smoltalk", "test"): 1,
    }  # fmt: skip
    assert online["gsm8k", "test"][0][0][0]["content"] == GSM8K[2]["question"]
    assert online["arc-easy", "train"][0] == online["arc-challenge", "test"][0] and online["arc-easy", "train"][0][0][1]["content"] == "B"
    assert len({fingerprint for _, fingerprint in online.values()}) == len(online)
    assert ask(root, endpoint, tmp_path / "home", *NAMES) == online, "nobody listens there any more"


def test_a_hub_that_has_it_not_or_broken_is_one_line(root: Path, tmp_path: Path, repositories: dict[str, dict[str, bytes]]) -> None:
    broken = {name: data[:-20] + b"?" * 20 if name.endswith(".parquet") else data for name, data in repositories["openai/gsm8k"].items()}
    missing = {"README.md": repositories["cais/mmlu"]["README.md"]}
    with hub({"openai/gsm8k": broken, "cais/mmlu": missing}) as endpoint:
        found = ask(root, endpoint, tmp_path / "home", "gsm8k", "mmlu", "smoltalk")
    for (name, _), (why, _) in found.items():
        assert why.startswith(f"{name} (") and "cannot be downloaded (" in why and why.endswith(f"{name}:PATH") and "\n" not in why


def test_a_hub_that_does_not_answer_costs_seconds_and_says_what_to_do(root: Path, tmp_path: Path) -> None:
    """An address that swallows what is sent to it (TEST-NET-1, RFC 5737)."""
    code = """
import sys, time
from nanochat.common import UserError
from nanochat.tasks.registry import open_task
begin = time.monotonic()
for name in ("gsm8k", "smoltalk", "mmlu", "arc-easy"):
    try:
        open_task(name, "train", 0)
    except UserError as error:
        print(error)
print(time.monotonic() - begin)
print("datasets" in sys.modules)
"""
    environment = os.environ | {"HF_ENDPOINT": "http://192.0.2.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True)
    *errors, seconds, imported = done.stdout.splitlines()
    assert len(errors) == 4 and all("the hub does not answer" in e and e.endswith("PATH") for e in errors), done.stdout
    assert errors[0].startswith("gsm8k (openai/gsm8k) is not on this machine") and errors[0].endswith("gsm8k:PATH")
    assert float(seconds) < 20 and imported == "False" and done.stderr == ""


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was asked"))
    begin = time.monotonic()
    with pytest.raises(UserError, match="offline mode"):
        open_task("arc-easy", "test", 0, offline=True)
    assert time.monotonic() - begin < 20
