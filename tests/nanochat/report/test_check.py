"""The check before a run is handed over, on real checkpoints of tiny models: what is good passes, and each thing that is not is told."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_chat import STEP, TEXT, reciting_model, save_chat_model, tiny_tokenizer
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.report.__main__ import main
from nanochat.report.check import Check, check
from nanochat.report.compose import generate
from nanochat.report.sections import RECIPE, section
from nanochat.train.objective import NextTokenObjective

TAG = "alphabet"


def write_records(path: Path, loss: str, offset: float = 0.0) -> str:
    """A finished run of `STEP` steps; returns the path of its metrics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [{"step": step, "total_tokens": step * 64, loss: 3.0 + offset} for step in range(1, STEP + 1)]
    records.append({"step": STEP, "total_tokens": STEP * 64, "val/bpb": 1.5})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="ascii")
    return str(path)


def give_plan(folder: Path, steps: int = STEP) -> None:
    """Says in the checkpoint how many steps its run was to have."""
    store = CheckpointStore(folder)
    saved = store.load(STEP)
    store.save(STEP, saved.tensors, saved.meta | {"identity": {"num_iterations": steps, "data": "d" * 16}})


def finish(base: Path, tag: str = TAG, memory: bool = False) -> None:
    """All that a run through every stage leaves."""
    ending = "_mc" * memory
    for stage in RECIPE:
        if not stage.required:
            continue
        name, values = stage.section + ending * stage.of_model, {"model tag": tag}
        if stage.trains:
            saved = base / f"{stage.trains}_checkpoints"
            save_chat_model(base, TAG, stage=stage.trains, memory=memory)
            if tag != TAG:
                (saved / TAG).rename(saved / tag)
            give_plan(saved / tag)
            logged = base / f"{stage.trains}_runs" / tag / "metrics.jsonl"
            values["metrics_file"] = write_records(logged, "train/loss_lod0" if memory else "train/loss", 0.1 * memory)
        target = {"figure": "ΔNLL@32", "value": 0.02, "limit": "at most 0.1", "met": "met"}
        if stage.name == "base_eval":
            values |= {"model": f"{tag}, step {STEP}", "val_bpb": 1.501, "targets": [target] * memory}
        if stage.name == "chat_eval":
            values |= {"samples": [{"prompt": "a", "text": "b"}], "targets": [target] * memory}
        section(name, values)
        stamp = {"stage": stage.name, "command": "python", "seconds": 1, "finished": "2026-11-20T06:30:00Z"}
        (base / "stages").mkdir(exist_ok=True)
        (base / "stages" / f"{stage.name}{ending * stage.of_model}.json").write_text(json.dumps(stamp))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all is well."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        finish(folder)
    return folder


@pytest.fixture
def run(good: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which may be spoilt."""
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    shutil.copytree(good, base, dirs_exist_ok=True)
    for path in (base / "report").iterdir():
        path.write_text(path.read_text("utf-8").replace(str(good), str(base)), encoding="utf-8")
    return base


def found(base: Path) -> dict[str, dict[str, str]]:
    """What the check has left for the report, by point."""
    return {point["point"]: point for point in json.loads((base / "report" / "check.json").read_text())["values"]["points"]}


def test_a_run_that_is_whole_passes_and_the_report_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device-type=cpu", "--prompt", "Say it"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines) and last == f"all {len(lines)} points are ok: this can be handed over"
    smoke = found(run)["smoke test"]["found"]
    assert smoke.startswith("sft replied 'abcdefghijklm") and "64 tokens at" in smoke and "first token after 0." in smoke
    assert len([point for point in found(run) if point.startswith("checkpoint of")]) == 3
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"UTC: all {len(lines)} points are ok." in text and "| ok | completeness |" in text and "### Check" not in text
    assert main(["check", "--json", "--tag", TAG, "--source=base"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["ok"] and values["models"] == [TAG] and "base replied" in values["points"][-1]["found"]


def test_a_run_with_a_memory_replies_in_a_session_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run, f"{TAG}-mc", memory=True)
    assert main(["check", "--tag", f"{TAG}-mc", "--device-type=cpu"]) == 0, capsys.readouterr().out
    points = found(run)
    assert points["smoke test in a session"]["found"].startswith("sft replied 'abcdefghijklm")
    assert points["loss parity, plain rows and baseline"]["found"].startswith("+0.1000 nats over the last 2 records")
    assert points["ΔNLL, base_eval"]["found"] == "ΔNLL@32 0.0200 (at most 0.1)"
    assert {point["model"] for point in points.values()} == {f"{TAG}-mc"}, "the other was not asked for"
    spoil(run, "chat_evaluation_mc", targets=[{"figure": "ΔNLL@32", "value": 0.2, "limit": "at most 0.1", "met": "missed"}])
    spoil(run, "base_evaluation_mc", targets=[])
    write_records(run / "base_runs" / f"{TAG}-mc" / "metrics.jsonl", "train/loss_lod0", 0.2)
    shutil.rmtree(run / "mid_checkpoints" / f"{TAG}-mc")
    assert main(["check", "--tag", f"{TAG}-mc", "--device-type=cpu", "--source=mid"]) == 1
    points = found(run)
    assert points["ΔNLL, chat_eval"]["result"] == "FAILED" and "ΔNLL@32 0.2000 (at most 0.1); look at" in points["ΔNLL, chat_eval"]["found"]
    assert points["ΔNLL, base_eval"]["result"] == "missing" and "scripts.base_eval" in points["ΔNLL, base_eval"]["found"]
    assert points["loss parity, plain rows and baseline"]["result"] == "FAILED"
    assert points["checkpoint of mid_train"]["result"] == "missing"
    assert points["smoke test"]["result"] == "missing" and "there is no mid model" in points["smoke test"]["found"]
    assert sum(point["result"] != "ok" for point in points.values()) == 5


def spoil(base: Path, name: str, **values: Any) -> None:
    path = base / "report" / f"{name}.json"
    record = json.loads(path.read_text())
    record["values"] |= values
    path.write_text(json.dumps(record))


def flip_a_byte(base: Path) -> None:
    path = base / "sft_checkpoints" / TAG / f"step_{STEP:07d}" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def say_nothing(base: Path) -> None:
    tokenizer = tiny_tokenizer()
    begin, end = (tokenizer.special_tokens[f"<|assistant_{name}|>"] for name in ("start", "end"))
    model = reciting_model(tokenizer, [begin, end], 9.0, 8192)
    store = CheckpointStore(base / "sft_checkpoints" / TAG)
    meta = store.load(STEP).meta | {"model_config": dataclasses.asdict(model.config)}
    store.save(STEP, {"model": NextTokenObjective(model).state_dict()}, meta)


def fail_a_stage(base: Path) -> None:
    stamp = {"stage": "chat_sft", "command": "python", "seconds": 1, "finished": "2026-11-20T07:30:00Z", "code": 9}
    (base / "stages" / "chat_sft.failed").write_text(json.dumps(stamp))


SPOILT: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "byte": (flip_a_byte, "checkpoint of chat_sft", "FAILED", "model.safetensors was changed after it was written"),
    "silence": (say_nothing, "smoke test", "FAILED", "sft replied nothing to 'What is a MegaContext?'"),
    "failure": (fail_a_stage, "completeness", "FAILED", "chat_sft ended early; see report/log.txt"),
    "section": (lambda base: (base / "report" / "chat_sft.json").unlink(), "completeness", "missing", "chat_sft left no section"),
    "stamp": (lambda base: (base / "stages" / "mid_train.json").unlink(), "completeness", "missing", "mid_train left no stamp"),
    "samples": (lambda base: spoil(base, "chat_evaluation", samples=[]), "chat samples", "missing", "run python -m scripts.chat_eval"),
    "bpb": (lambda base: spoil(base, "base_evaluation", val_bpb=1.6), "loss parity, evaluation and training", "FAILED", "1.6000 bits per"),
    "step": (
        lambda base: spoil(base, "base_evaluation", model=f"{TAG}, step 3"),
        "loss parity, evaluation and training", "FAILED", f"base_eval measured {TAG}, step 3, the newest checkpoint is {TAG}, step {STEP}",
    ),
    "unmeasured": (
        lambda base: (base / "base_runs" / TAG / "metrics.jsonl").unlink(),
        "loss parity, evaluation and training", "missing", "training logged no val/bpb",
    ),
    "plan": (
        lambda base: give_plan(base / "base_checkpoints" / TAG, 9),
        "checkpoint of base_train", "FAILED", f"step {STEP} of 9: training has not finished",
    ),
    "checkpoint": (
        lambda base: shutil.rmtree(base / "mid_checkpoints"), "checkpoint of mid_train", "missing", "run the recipe again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_told_and_nothing_else(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_it, point, result, text = SPOILT[name]
    spoil_it(run)
    assert check(Check(device_type="cpu")) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok ")]
    also = {"byte": "smoke test", "section": ""}.get(name, "")  # a model that cannot be loaded does not reply either
    told = [line for line in bad[:-1] if not (also and f" {also}," in line)]
    assert len(told) == 1 and told[0].startswith(f"{result} ") and point in told[0] and text in told[0], bad
    assert bad[-1].endswith("points are not ok")


def test_the_tokenizer_of_another_model_is_noticed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train([TEXT.upper()], 300).save(run / "tokenizer")
    assert check(Check(device_type="cpu")) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert [line.split(",")[0].split(maxsplit=1)[1] for line in bad] == [
        *(f"checkpoint of {name}" for name in ("base_train", "mid_train", "chat_sft")), "smoke test"
    ]  # fmt: skip
    assert all("tokenizer" in line for line in bad)


def test_nothing_is_there(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert all(line.startswith("missing ") for line in out[:-1]) and "tok_train, tok_eval left no section" in out[0]
    with pytest.raises(UserError, match="no model d9 has reported in"):
        main(["check", "--tag=d9"])


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--prompt", " "], "invalid prompt: it is empty"),
        (["--source=rlhf"], "--source"),
        (["--device-type=tpu"], "device_type"),
        (["--tga=d4"], "--tag"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", *flags])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and text in error and error.count("\n") == 1
