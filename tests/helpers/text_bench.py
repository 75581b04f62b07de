"""A small `bench.mc_text`: its corpus is made, its rows are short."""

from __future__ import annotations

import time
from pathlib import Path

from bench.mc_text_setting import Bench, McText, corpus_stage
from tests.bench.test_long_corpus import write_packages


def text_bench(folder: Path, stage: str, length: int, **options) -> Bench:
    """The bench in `folder`, with rows of `length` tokens of a vocabulary of 400, 16 of them recent; `options` are further flags."""
    where = {"roots": str(write_packages(folder / "root")), "folder": str(folder / "bench")}
    shape = {"vocab_size": 400, "max_seq_len": length, "total_batch_size": 4 * length, "recent": 16, "horizons": "16"}
    config = McText(stage=stage, **where, **(shape | options))
    bench = Bench(config, folder / "bench", time.monotonic() + 1e9)
    corpus_stage(bench)
    return bench
