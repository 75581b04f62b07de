"""chat_eval on real checkpoints of models whose replies are known."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from bench.tiny_chat import save_chat_model
from bench.warm_start import WarmStart
from mc.eval.row_eval import evaluate_memory
from mc.loading import load_memory
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.eval.bits_per_byte import validation_batches
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.tasks.mixtures import MIXTURES
from scripts.chat_eval import main
from tests.helpers.hub_files import ARC, write_lines
from tests.helpers.tiny_model import TEXT
from tests.mc.test_loading import memory, save_memory


@pytest.fixture
def chat(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder with a chat model that says `Sum:` 42 `-done!` to everything, fine-tuned."""
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_chat_model(base, "sum", certainty=60.0, context_tokens=64)
    return base


def report(base: Path, name: str = "chat_evaluation") -> dict:
    return json.loads((base / "report" / f"{name}.json").read_text(encoding="utf-8"))["values"]


def test_evaluates_prints_and_reports(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arc = write_lines(tmp_path / "test.jsonl", ARC)
    assert main(["--tasks", f"lists,arc-easy:{arc}", "--max-problems", "5", "--batch-size=2", "-g", "sum", "-i", "sft", "-s", "7"]) == 0
    values, out = report(chat), capsys.readouterr().out
    assert values["model"] == "sum, sft step 7" and "left_out" not in values and "memory" not in values
    lists, easy = values["tasks"]
    assert (lists["task"], lists["problems"], lists["accuracy"], lists["low"]) == ("lists", 5, 0.0, 0.0)
    assert (easy["kind"], easy["problems"], easy["chance"]) == ("categorical", 2, pytest.approx(7 / 24))
    assert 0 <= easy["low"] <= easy["accuracy"] <= easy["high"] <= 1
    assert values["ChatCORE"] == pytest.approx((easy["centered"] + lists["centered"]) / 2)
    assert values["samples"][0]["text"].startswith("Sum:<|python_start|>6*7<|python_end|><|output_start|>42")
    assert f"ChatCORE: {values['ChatCORE']:.4f}" in out and "| task | kind | problems | accuracy |" in out
    last = json.loads(out.splitlines()[-1])
    assert (
        last["chat_core"] == values["ChatCORE"]
        and last["tasks"]["lists"]["problems"] == 5
        and set(last["tasks"])
        == {
            "lists",
            f"arc-easy:{arc}",
        }
    )


def test_auto_is_what_there_is_and_says_what_is_left_out(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--max-problems", "1", "--max-new-tokens", "4"]) == 0
    values, out = report(chat), capsys.readouterr().out
    assert set(values["left_out"]) == {"arc-easy", "arc-challenge", "mmlu", "gsm8k"}
    assert all(f"{name} is left out: {why}" in out for name, why in values["left_out"].items())
    assert [row["task"] for row in values["tasks"]] == [
        "humaneval", "spellingbee", "spelling", "arithmetic:terms=3", "lists", "recall", "identity",
    ]  # fmt: skip


def test_a_model_of_the_demo_is_asked_what_it_was_trained_for(chat: Path) -> None:
    store = CheckpointStore(chat / "sft_checkpoints" / "sum")
    saved = store.load(7)
    store.save(7, saved.tensors, {**saved.meta, "fine_tuning": {"sft": {"mixture": "demo"}}})
    assert main(["--max-problems", "1"]) == 0
    assert [row["task"] for row in report(chat)["tasks"]] == [part.spec for part in MIXTURES["demo"]]


def test_several_samples_and_no_isolation(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tasks=humaneval", "--max-problems=2", "--num-samples=3", "-t", "1", "--unsafe-exec"]) == 0
    (row,) = report(chat)["tasks"]
    assert (row["task"], row["problems"], row["pass_at_k"]) == ("humaneval", 2, 0.0) and "pass@3 0.0000" in capsys.readouterr().out


def test_where_nothing_isolates_programs_they_are_run_on_demand_only(chat: Path, warm: WarmStart) -> None:
    surroundings = {"PATH": "/nonexistent", "NANOCHAT_BASE_DIR": str(chat), "NANOCHAT_DTYPE": "fp32"}
    argv = ["--tasks=humaneval", "--max-problems=1", "--max-new-tokens=30"]
    refused = warm.start("scripts.chat_eval", argv, surroundings)
    assert refused.wait() == 1
    errors = refused.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: "), refused.stderr
    assert not (chat / "report").exists()
    done = warm.start("scripts.chat_eval", [*argv, "--unsafe-exec"], surroundings)
    assert done.wait() == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["tasks"]["humaneval"]["problems"] == 1


def test_the_latest_stage_is_evaluated(chat: Path) -> None:
    shutil.copytree(chat / "sft_checkpoints", chat / "mid_checkpoints")
    assert main(["--tasks=compare", "--max-problems=1"]) == 0 and report(chat)["model"] == "sum, sft step 7"
    assert main(["--tasks=compare", "--max-problems=1", "-i", "mid"]) == 0 and report(chat)["model"] == "sum, mid step 7"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--tasks", "gsm8k"], "gsm8k .openai/gsm8k. is not on this machine and cannot be downloaded"),
        (["--tasks", "listz"], "there is no task 'listz'; did you mean lists"),
        (["--tasks", ""], "names no task"),
        (["--tasks", "lists", "-g", "other"], "no model other in"),
        (["--tasks", "lists", "-i", "rl"], "no model in .*rl_checkpoints; train one with python -m scripts.chat_rl"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(chat: Path, argv: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        main(argv)
    assert "\n" not in str(error.value) and not (chat / "report").exists()


@pytest.mark.parametrize(
    "wrong",
    [["--max-problems", "0"], ["--batch-size", "0"], ["--num-samples", "2"], ["-i", "base"], ["--device-type", "tpu"], ["--task", "x"]],
)
def test_a_wrong_flag_is_one_line_and_nothing_is_loaded(base: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    assert exit.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    folder = tmp_path / "corpus"
    (folder / "val").mkdir(parents=True)
    for i in range(9):
        (folder / f"train_{i}.txt").write_text(f"{i} {TEXT * (2 + i)}", encoding="utf-8")
        (folder / "val" / f"{i}.txt").write_text(f"{TEXT * (2 + i)} {i}", encoding="utf-8")
    return str(folder)


def test_a_memory_is_measured_on_the_rows_of_base_training(base: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"data": {"dataset": corpus, "packing": "bestfit"}, "trainer": {"device_batch_size": 3, "seed": 42}, "eval_tokens": 960}
    save_memory(base, memory(), recipe=recipe)
    shutil.copytree(base / "base_checkpoints", base / "sft_checkpoints")
    assert main(["--tasks", "compare", "--max-problems", "2", "--max-new-tokens", "4"]) == 0
    values, out = report(base, "chat_evaluation_mc"), capsys.readouterr().out
    controller, tokenizer, *_ = load_memory("sft", say=lambda _: None)
    shards = open_tokens(open_source(corpus), tokenizer, "val", say=lambda _: None)
    loader = RowLoader(shards, 96, "bestfit", 42, False, say=lambda _: None)
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    figures = evaluate_memory(controller, validation_batches(loader, 960, 3, runtime))
    assert values["memory"] == pytest.approx(figures) and "mc/delta_nll@32" in figures
    assert math.isfinite(figures["mc/delta_nll@32"]) and f"memory: ΔNLL@32 {figures['mc/delta_nll@32']:.4f} nats" in out
    assert json.loads(out.splitlines()[-1])["mc/delta_nll@32"] == pytest.approx(figures["mc/delta_nll@32"])
    assert not (base / "report" / "chat_evaluation.json").exists()
    assert main(["--tasks", "compare", "--max-problems", "2", "--max-new-tokens", "4", "--memory", "0"]) == 0
    assert "memory" not in report(base, "chat_evaluation_mc")
