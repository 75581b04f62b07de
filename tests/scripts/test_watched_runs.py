"""base_train and chat_web under `--profile-steps` and `MC_MEMORY_DEBUG`: what they leave, and that training stays the same."""

from __future__ import annotations

import dataclasses
import gzip
import json
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from bench.tiny_chat import running, save_chat_model
from bench.tiny_run import TAG, Home
from bench.warm_start import WarmStart
from tests.scripts.test_base_train import assert_one_line
from tests.scripts.test_base_train_distributed import start_two

MEMORY = ("--mc", "--max-seq-len=128", "--total-batch-size=512", "--device-batch-size=2", "--block-size=8", "--mc-lens-every=1")
FLAGS = (*MEMORY, "--num-iterations=3", "--save-every=2", "--eval-every=3", "--eval-tokens=256")


def ranges(trace: Path) -> Counter[str]:
    """Our own ranges in a trace, all of whose events are what Perfetto wants."""
    with gzip.open(trace, "rt", encoding="utf-8") as f:
        events = json.load(f)["traceEvents"]
    assert all(event.keys() >= {"ph", "ts", "pid", "tid", "name"} for event in events)
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


def test_a_profile_and_snapshots_leave_training_as_it_is(home: Home) -> None:
    plain = dataclasses.replace(home.copy(home.base.with_name("plain")), tag=f"{TAG}-mc")
    assert plain.train(*FLAGS).code == 0
    home = dataclasses.replace(home, tag=f"{TAG}-mc")
    process = home.start(*FLAGS, "--profile-steps=1:2", environment={"MC_MEMORY_DEBUG": "1"})
    assert process.wait(240) == 0, process.stderr
    assert [r["train/loss"] for r in home.metrics() if "train/loss" in r] == [r["train/loss"] for r in plain.metrics() if "train/loss" in r]
    assert home.tensors(3) == plain.tensors(3)

    trace = home.base / "report" / "profile" / f"base-{TAG}-mc-steps-1-2.pt.trace.json.gz"
    found = ranges(trace)
    assert [found[name] for name in ("step 0", "step 1", "step 2", "data", "optimizer")] == [0, 1, 0, 1, 1]
    assert all(found[name] == 2 for name in ("forward", "backward", "tree_build", "variant_sampling", "lens"))
    assert f"profile of steps 1 to 1: {trace}" in process.stdout and "aten::" in process.stdout

    folder = home.base / "report" / "memory" / f"base-{TAG}-mc"
    assert f"memory snapshots go to {folder}" in process.stdout
    phases = {path.stem for path in folder.glob("*.txt")}
    assert phases >= {"model_built", "tree_build", "variant_sampling", "lens", "forward", "backward", "optimizer", "end"}
    assert phases >= {"evaluate_step_0000003", "evaluate_mc_step_0000003", "checkpoint_step_0000002", "checkpoint_step_0000003"}
    assert not (plain.base / "report" / "memory").exists() and not (plain.base / "report" / "profile").exists()


def test_two_processes_leave_a_trace_and_snapshots_each(home: Home) -> None:
    flags = ("--num-iterations=3", "--eval-every=-1", "--profile-steps=0:1")
    processes = start_two(home, *flags, environment={"MC_MEMORY_DEBUG": "1"})
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    for rank in (0, 1):
        assert ranges(home.base / "report" / "profile" / f"base-{TAG}-steps-0-1-rank{rank}.pt.trace.json.gz")["step 0"] == 1
        assert (home.base / "report" / "memory" / f"base-{TAG}" / f"summary.rank{rank}.md").exists()


@pytest.mark.parametrize(
    ("flags", "environment", "code", "said"),
    [
        (["--profile-steps=4:2"], {}, 2, "profile_steps is '4:2'"),
        (["--profile-steps=1"], {}, 2, "profile_steps is '1'"),
        (["--profile-steps=2:9"], {}, 1, "profile_steps is 2:9, but the run ends with step 2"),
        ([], {"MC_MEMORY_DEBUG": "yes"}, 1, "MC_MEMORY_DEBUG is 'yes'; set it to 1"),
    ],
)
def test_what_is_wrong_is_refused(home: Home, flags: list[str], environment: dict[str, str], code: int, said: str) -> None:
    process = home.train("--num-iterations=3", *flags, environment=environment)
    assert process.code == code
    assert_one_line(process.stderr, said)
    assert not (home.base / "base_checkpoints").exists() and not (home.base / "report").exists()


def test_the_chat_server_takes_snapshots(tmp_path: Path, warm: WarmStart) -> None:
    save_chat_model(tmp_path, "alphabet")
    folder = tmp_path / "report" / "memory" / "chat_web-sft-alphabet"
    with running(warm, tmp_path, "-g", "alphabet", environment={"MC_MEMORY_DEBUG": "1"}) as server:
        assert {path.name for path in folder.iterdir()} == {"start.txt", "summary.md"}
        for _ in range(2):
            body = json.dumps({"messages": [{"role": "user", "content": "go"}], "max_tokens": 3, "temperature": 0}).encode()
            asked = urllib.request.Request(f"{server.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
            assert json.load(urllib.request.urlopen(asked, timeout=30))["choices"][0]["message"]["content"] == "abc"
    table = (folder / "summary.md").read_text(encoding="utf-8").splitlines()[4:]
    assert [line.split("|")[1].strip() for line in table] == ["start", "first\\_request"]
