from __future__ import annotations

from pathlib import Path

import pytest

import bench.tokenizer
from bench.tokenizer import TokenizerBench, compare_encoding, measure_single_classes


def test_encoding_is_compared_on_equal_ids() -> None:
    texts = [Path(bench.tokenizer.__file__).read_text(encoding="utf-8"), "", "é" * 50]
    result = compare_encoding(texts, TokenizerBench(vocab_size=400, runs=2))
    assert result["ids_equal"] is True
    assert result["encode_mb_per_s"] > 0 and result["encode_vs_tiktoken"] > 0


def test_every_single_class_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench.tokenizer, "SINGLE_CLASS_CHARS", 400_000)
    result = measure_single_classes()
    assert set(result) == {"single_class_train_s", "single_class_encode_s", "single_class_growth"}
    assert capsys.readouterr().out.count("\n") == len(bench.tokenizer.CLASSES)


def test_a_bench_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="runs must be at least 1"):
        TokenizerBench(runs=0)
