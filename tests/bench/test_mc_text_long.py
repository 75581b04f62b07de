"""The long stage of mc_text with a small memory: what fits the Working Context is read as the model alone reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.mc_text_long import _losses, long_stage
from bench.mc_text_setting import Bench
from nanochat.data.tokenizer import load_tokenizer
from nanochat.infer.fast_decode import DecodeStep
from tests.helpers.layered_memory import VOCAB, T, layered_memory
from tests.helpers.text_bench import text_bench


def test_a_history_that_fits_loses_nothing() -> None:
    document = torch.randint(VOCAB, (97,), generator=torch.Generator().manual_seed(0))
    small = layered_memory()
    full, window, memory = _losses(small, DecodeStep(small.model), 136, document, 32)
    assert window == pytest.approx(full, abs=1e-5) == memory
    full, window, memory = _losses(small, DecodeStep(small.model), 80, document, 32)
    assert len({round(loss, 4) for loss in (full, window, memory)}) == 3, "a smaller budget makes a difference"


def test_the_stage_measures_each_history(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = text_bench(tmp_path, "long", 2 * T, histories="64,512,100000")
    memory, tokenizer = layered_memory(vocab_size=400, max_seq_len=2 * T), load_tokenizer()
    assert long_stage(Bench(bench.config, bench.home, 0.0), memory, tokenizer, "x") is None
    found = long_stage(bench, memory, tokenizer, "x")
    assert [table["history"] for table in found["long"]] == [64, 512, 100000]
    assert found["long"][-1] == {"history": 100000, "documents": 0} and [table["documents"] for table in found["long"]] == [1, 1, 0]
    assert (
        json.dumps(found, allow_nan=False) and "long: 512 tokens read before, 1 documents: window minus memory" in capsys.readouterr().out
    )
    assert long_stage(Bench(bench.config, bench.home, 0.0), memory, tokenizer, "x") == found, "and nothing twice"
