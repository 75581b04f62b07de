"""base_eval on a checkpoint with a memory: the plain row's figures as ever, and what the memory is worth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mc.eval.paired_stats import compare_rows
from mc.eval.row_eval import measure, training_probes
from mc.loading import load_memory
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.eval.bits_per_byte import validation_batches
from nanochat.runtime.device import RuntimeFlags, start
from scripts import base_eval
from scripts.base_eval import main
from tests.helpers.tiny_memory import tiny_batch
from tests.helpers.tiny_model import TEXT, save_base, tiny_model, tiny_tokenizer
from tests.mc.test_loading import memory, save_memory


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(9):
        (folder / f"{'val' if i % 3 == 0 else 'train'}_{i}.txt").write_text(f"{i} {TEXT * (2 + i)}", encoding="utf-8")
    (folder / "val").mkdir()
    (folder / "val" / "a.txt").write_text(TEXT, encoding="utf-8")
    return str(folder)


def report(base: Path) -> dict:
    return json.loads((base / "report" / "base_evaluation_mc.json").read_text(encoding="utf-8"))["values"]


def test_reports_what_the_memory_is_worth(base: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At every horizon that fits rows of 96 tokens: that of 32 alone."""
    save_memory(base, memory())
    assert main(["--dataset", corpus, "--eval-tokens", "960", "--device-batch-size", "3"]) == 0
    values, out = report(base), capsys.readouterr().out
    assert values["model"] == "tiny-mc, step 7" and math.isfinite(values["val_bpb"]) and "samples" in values
    assert [(row["horizon"], row["layout"]) for row in values["memory"]] == [(32, name) for name in ("window", "random", "lens")]
    controller, tokenizer, *_ = load_memory(say=lambda _: None)
    (probe,) = training_probes(controller, (32, 128, 512))
    shards = open_tokens(open_source(corpus), tokenizer, "val", say=lambda _: None)
    loader = RowLoader(shards, 96, "bestfit", shuffle=False, say=lambda _: None)
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    (losses,) = measure(controller, validation_batches(loader, 960, 3, runtime), [probe], ("random", "lens"))
    compared = compare_rows(losses)
    assert values["memory_rows"] == values["memory_rows@32"] == compared.rows == min(10, loader.rows_per_epoch)
    for row in values["memory"]:
        assert row["entries"] == probe.width
        assert (row["delta_nll"], row["delta_nll_error"]) == pytest.approx(tuple(compared.delta_nll(row["layout"])), rel=1e-5)
        assert (row["recovery"], row["recovery_error"]) == pytest.approx(tuple(compared.recovery(row["layout"])), rel=1e-4, abs=1e-9)
        assert f"{row['delta_nll']:,.6g}" in out
    assert "| horizon | entries | layout | delta nll |" in out
    (target,) = values["targets"]
    assert target["figure"] == "ΔNLL@32" and target["value"] == values["memory"][-1]["delta_nll"] and target["limit"] == "at most 0.1"
    assert target["met"] == ("met" if target["value"] <= 0.1 else "missed")
    row, session = values["layouts"]
    assert "decision point" in row["text"] and "lens" in row["text"] and "1 character =" in session["text"]
    assert values["focus"]["refocuses"] > 0 and 0 < values["focus"]["residency"] <= 1


def test_rows_are_counted_at_every_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three rows one has no target among its last 8: it counts at the horizon of 32 only."""
    monkeypatch.setattr(base_eval, "MEMORY_HORIZONS", (8, 32))
    tokens, targets = (part.clone() for part in tiny_batch(3))
    targets[0, -9:] = -1
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    values = base_eval._memory(memory().requires_grad_(False), lambda split: iter([(tokens, targets)]), runtime)
    assert {name: count for name, count in values.items() if "rows" in name} == {
        "memory_rows@8": 2,
        "memory_rows@32": 3,
        "memory_rows": 3,
    }


def test_a_memory_that_is_asked_for_but_not_there_is_one_line(base: Path, corpus: str) -> None:
    save_base(base, tiny_model(vocab_size=300), tiny_tokenizer(), dataset=corpus)
    with pytest.raises(UserError, match="tiny step 7 was trained without a memory; leave memory out of --eval"):
        main(["--eval", "bpb,memory"])
    assert not (base / "report").exists()


def test_rows_too_short_for_any_horizon_are_said_to_be(base: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_memory(base, memory(allocator_recent_tokens=64, mc_train_wc_length=80))
    assert main(["--eval", "memory", "--dataset", corpus]) == 0
    assert "memory" not in report(base) and "leave nothing to compress before 32 tokens" in capsys.readouterr().out
