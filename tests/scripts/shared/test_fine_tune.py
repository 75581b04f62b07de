"""mid_train and chat_sft: base model in, chat model out; resumed bit for bit; with a memory; refused where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from bench.tiny_run import TAG, Home, new_home
from bench.warm_start import WarmStart
from nanochat.checkpoint.store import CheckpointStore

BASE = ("--max-seq-len=128", "--total-batch-size=512", "--num-iterations=6", "--warmup-steps=1", "--lr-mult=3")
MEMORY = ("--mc", "--block-size=8", "--mc-num-random-variants=2", "--mc-train-wc-length=60", "--mc-log-timers=0")
TUNE = (
    "--device-type=cpu",
    "--compile=0",
    "--log-every=1",
    "--eval-every=4",
    "--eval-tokens=512",
    "--mixture=spelling:words=simple@60,identity@60",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """A base model, and the same with a memory."""
    home = new_home(tmp_path_factory.mktemp("trained") / "base", corpus, warm)
    assert home.train(*BASE).code == 0
    assert home.train(*BASE, *MEMORY).code == 0
    return home


def at(home: Home, stage: str, tag: str = TAG) -> Home:
    return dataclasses.replace(home, stage=stage, tag=tag)


def test_a_base_model_goes_through_both_stages(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    done = home.run("scripts.mid_train", *TUNE, "--model-tag=tiny", "--num-iterations=5")
    assert done.code == 0, done.stderr
    assert "mid: tiny, from base step 6; 5 steps × 512 tokens" in done.stdout
    mid = at(home, "mid")
    assert mid.saved_steps() == [5]
    records = mid.metrics()
    assert all(record["train/loss"] > 0 and record["train/tokens_per_step"] == 512 for record in records if "train/loss" in record)
    assert [record["step"] for record in records if "val/bpb" in record] == [4, 5]

    done = home.run("scripts.chat_sft", *TUNE, "-g", "tiny", "--num-iterations=3", "--seed=1")
    assert done.code == 0 and "sft: tiny, from mid step 5;" in done.stdout, done.stderr
    meta = CheckpointStore(home.base / "sft_checkpoints" / "tiny").load(3, ("model",)).meta
    assert meta["recipe"]["trainer"]["device_batch_size"] == 4, "the base model's recipe"
    assert set(meta["fine_tuning"]) == {"mid", "sft"} and meta["fine_tuning"]["sft"]["trainer"]["seed"] == 1
    assert meta["identity"]["source"] == "mid" and meta["identity"]["source_step"] == 5
    for name in ("mid_training", "chat_sft"):
        values = json.loads((home.base / "report" / f"{name}.json").read_text())["values"]
        assert values["conversations"] == sum(part["conversations"] for part in values["mixture"]) == 120
    weights = [
        CheckpointStore(home.base / f"{s}_checkpoints" / "tiny").load(n, ("model",)).tensors["model"] for s, n in (("base", 6), ("mid", 5))
    ]
    assert not torch.equal(weights[0]["model.wte.weight"], weights[1]["model.wte.weight"])


def test_one_epoch_is_all_the_conversations_once(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    done = home.run("scripts.chat_sft", *TUNE, "--source=base", "-g", "tiny")
    assert done.code == 0, done.stderr
    values = json.loads((home.base / "report" / "chat_sft.json").read_text())["values"]
    rows, steps = values["rows"], values["steps"]
    assert steps == -(-rows // 4) and values["epochs"] == pytest.approx(steps * 4 / rows)


@pytest.mark.parametrize("memory", [False, True])
def test_a_killed_run_goes_on_to_the_same_weights(trained: Home, tmp_path: Path, memory: bool) -> None:
    tag = TAG + "-mc" * memory
    flags = (*TUNE, f"--model-tag={TAG}", *["--mc"] * memory, "--num-iterations=9", "--save-every=2", "--keep-checkpoints=-1")
    whole, broken = (at(trained.copy(tmp_path / name), "mid", tag) for name in ("whole", "broken"))
    done = whole.run("scripts.mid_train", *flags)
    assert done.code == 0, done.stderr
    process = broken.begin("scripts.mid_train", *flags)
    process.until(lambda: broken.logged(5))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not broken.logged(9)
    again = broken.run("scripts.mid_train", *flags)
    assert again.code == 0, again.stderr
    broken.assert_same_training(whole, 9)


def test_a_memory_is_trained_on_and_kept(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    done = home.run("scripts.chat_sft", *TUNE, "--mc", "--num-iterations=4", "--warmup-steps=0", "--lr-mult=3")
    assert done.code == 0, done.stderr
    sft = at(home, "sft", f"{TAG}-mc")
    assert sft.saved_steps() == [4] and not (home.base / "sft_checkpoints" / TAG).exists()
    stores = [CheckpointStore(home.base / f"{stage}_checkpoints" / f"{TAG}-mc") for stage in ("base", "sft")]
    before, after = (store.load(step, ("model",)) for store, step in zip(stores, (6, 4), strict=True))
    assert after.meta["mc_config"] == before.meta["mc_config"] and before.tensors["model"].keys() == after.tensors["model"].keys()
    moved = [name for name, tensor in before.tensors["model"].items() if not torch.equal(tensor, after.tensors["model"][name])]
    assert any(name.startswith("gistnet.") for name in moved) and any(name.startswith("focus.lensnet.") for name in moved)
    record = next(record for record in sft.metrics() if "mc/variant_width" in record)
    assert record["mc/variant_width"] < 70, "variants are as narrow as at the end of base training from the start"
    assert (home.base / "report" / "chat_sft_mc.json").exists()


@pytest.mark.parametrize(
    ("module", "flags", "code", "says"),
    [
        ("mid_train", ["--model-tag=other"], 1, "no model other in .*base_checkpoints .*python -m scripts.base_train"),
        ("mid_train", ["--source=sft"], 1, "source is sft, but mid_train starts from base; give another --source"),
        ("chat_sft", ["--model-tag=tiny", "--step=3"], 1, "has no checkpoint of step 3; it has: 6"),
        ("chat_sft", ["--model-tag=tiny", "--mixture=speling"], 1, "there is no task 'speling'; did you mean spelling"),
        ("chat_sft", ["--model-tag=tiny", "--mixture=customjson:/nowhere.jsonl"], 1, "/nowhere.jsonl"),
        ("chat_sft", ["--model-tag=tiny", "--total-batch-size=100"], 1, "total_batch_size 100 is not a multiple of 512 tokens"),
        ("mid_train", ["--epochs=0"], 2, "epochs is 0.0; it must be positive"),
        ("mid_train", ["--device-batch-size=0"], 2, "device_batch_size is 0; it must be at least 1"),
        ("mid_train", ["--eval-every=0"], 2, "eval_every is 0; it must be at least 1, or -1"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(trained: Home, module: str, flags: list[str], code: int, says: str) -> None:
    before = trained.contents()
    done = trained.run(f"scripts.{module}", *TUNE, *flags)
    assert done.code == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(says, line), line
    assert trained.contents() == before


def test_mc_needs_a_memory(trained: Home, tmp_path: Path) -> None:
    home = trained.copy(tmp_path / "base")
    done = home.run("scripts.mid_train", *TUNE, "--num-iterations=1", "--model-tag=nothing", "--mc")
    assert done.code == 1 and "no model nothing-mc" in done.stderr
