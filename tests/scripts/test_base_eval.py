"""base_eval on a real tiny checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint.load_model import load_model
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.eval.samples import PROMPTS, sample_base
from scripts.base_eval import main
from tests.helpers.core_bundle import write_bundle
from tests.helpers.tiny_model import TEXT, save_base, tiny_model, tiny_tokenizer


@pytest.fixture
def trained(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder with a model and a corpus of its own."""
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(12):
        (corpus / f"{'val' if i % 3 == 0 else 'train'}_{i}.txt").write_text(f"{i} {TEXT * (1 + i)}", encoding="utf-8")
    for i in range(3):
        (corpus / f"val_{i}").mkdir()
        (corpus / f"val_{i}" / "a.txt").write_text(TEXT + str(i), encoding="utf-8")
    save_base(base, tiny_model(vocab_size=300, window_pattern="SL"), tiny_tokenizer(), dataset=str(corpus))
    return base


def report(base: Path) -> dict:
    return json.loads((base / "report" / "base_evaluation.json").read_text(encoding="utf-8"))["values"]


def bits_per_byte(base: Path, split: str, rows: int) -> float:
    """Of the split's first rows in the order of training, one row and one target at a time."""
    model, tokenizer, meta = load_model(say=lambda _: None)
    shards = open_tokens(open_source(meta["recipe"]["data"]["dataset"]), tokenizer, split, say=lambda _: None)
    loader = RowLoader(shards, 24, "bestfit", 42, shuffle=split == "train", say=lambda _: None)
    token_bytes, bits, length = tokenizer.token_bytes(), 0.0, 0
    for row in torch.from_numpy(loader.rows(0, min(rows, loader.rows_per_epoch))).long():
        logits = model.logits(model.backbone(model.embed(row[None, :-1]), model.rotary(0, 24)))[0].double().log_softmax(-1)
        for t, target in enumerate(row[1:].tolist()):
            if token_bytes[target]:
                bits -= logits[t, target].item() / math.log(2)
                length += int(token_bytes[target])
    return bits / length


def test_evaluates_as_in_training_and_reports(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    values, out = report(trained), capsys.readouterr().out
    assert values["model"] == "tiny, step 7"
    assert values["val_bpb"] == pytest.approx(bits_per_byte(trained, "val", 10), rel=1e-5)
    assert values["train_bpb"] == pytest.approx(bits_per_byte(trained, "train", 10), rel=1e-5)
    model, tokenizer, _ = load_model(say=lambda _: None)
    assert values["samples"] == sample_base(model, tokenizer)
    assert [sample["prompt"] for sample in values["samples"]] == [*PROMPTS, *[""] * 4]
    assert "core_metric" not in values and "CORE: left out" in out and "python -m nanochat.core_eval download" in out
    assert f"val: {values['val_bpb']:.4f} bits per byte" in out


def test_a_small_corpus_is_split_as_in_training(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """4 % of one short document are less than a row."""
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "abc " * 60}), encoding="utf-8")
    save_base(base, tiny_model(vocab_size=300, window_pattern="SL"), tiny_tokenizer(), dataset=str(tmp_path / "a.jsonl"))
    assert main(["--eval", "bpb"]) == 0
    out = capsys.readouterr().out
    assert out.count("at the end of each document are for validation, which fills a row of 24 tokens") == 1
    assert math.isfinite(report(base)["val_bpb"])


def test_flags_choose_what_is_evaluated(trained: Path) -> None:
    assert main(["--eval", "bpb", "--eval-tokens", "72", "--device_batch_size=2", "-g", "tiny", "-s", "7"]) == 0
    values = report(trained)
    assert "samples" not in values
    assert values["val_bpb"] == pytest.approx(bits_per_byte(trained, "val", 3), rel=1e-5)
    assert main(["--eval", "sample"]) == 0
    assert set(report(trained)) == {"model", "samples"}


def test_core_is_evaluated_where_its_bundle_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(trained / "eval_bundle")
    assert main(["--eval", "core", "--core-metric-max-per-task", "4"]) == 0
    values = report(trained)
    assert set(values["core_accuracy"]) == {"pick", "who", "copy"}
    assert values["core_metric"] == pytest.approx(sum(values["core_centered"].values()) / 3)
    assert f"CORE: {values['core_metric']:.4f}" in capsys.readouterr().out


def test_core_that_is_asked_for_but_not_here_is_one_line(trained: Path) -> None:
    with pytest.raises(UserError, match="the CORE bundle does not exist .*; get it with: python -m nanochat.core_eval download"):
        main(["--eval", "bpb,core"])
    assert not (trained / "report").exists()


def test_what_was_measured_in_training_and_no_fewer_than_a_row(trained: Path) -> None:
    with pytest.raises(UserError, match="--eval-tokens"):
        main(["--eval-tokens", "5"])
    with pytest.raises(UserError, match="no file or folder matches"):
        main(["--dataset", str(trained / "nothing")])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--eval", "bpd"],
        ["--eval-tokens", "0"],
        ["--device-batch-size", "-1"],
        ["--core-metric-max-per-task", "0"],
        ["--device-type", "tpu"],
    ],
)
def test_a_wrong_flag_is_one_line_and_nothing_is_loaded(base: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and wrong[0].strip("-").replace("-", "_") in error
