"""Speed of the token cache and the data loader: `python -m bench.loader`. The last line is JSON.

Tokenizes the local corpus into a temporary folder, then times opening that cache, and reading whole epochs from it step by step
on one core.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import flag, parse, part, run

T = TypeVar("T")


@dataclass
class LoaderBench:
    """Measure the data loader: building its cache, opening it, reading rows."""

    data: DataFlags = part(DataFlags)
    vocab_size: int = flag(8192, "vocabulary size of the tokenizer that is trained first", unit="tokens")
    seq_len: int = flag(512, "length of a row", unit="tokens")
    rows_per_step: int = flag(16, "rows per read", unit="rows")
    epochs: int = flag(5, "epochs over the corpus; the median counts")

    def __post_init__(self) -> None:
        for name in ("seq_len", "rows_per_step", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def main(argv: list[str] | None = None) -> int:
    config = parse(LoaderBench, argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_BASE_DIR"] = folder
        print(json.dumps(measure(config)))
    return 0


def measure(config: LoaderBench) -> dict[str, float | int | str]:
    """Seconds and rates. The cache is that of `main`'s temporary base folder."""
    collect_s, source = _timed(lambda: open_source(config.data.dataset, config.data.text_column))
    train_s, tokenizer = _timed(lambda: Tokenizer.train(source.documents("train"), config.vocab_size))
    print(f"corpus in {collect_s:.2f} s, tokenizer in {train_s:.2f} s")

    def open_rows() -> RowLoader:
        source = open_source(config.data.dataset, config.data.text_column)
        train, _ = (open_tokens(source, tokenizer, split) for split in ("train", "val"))
        return RowLoader(train, config.seq_len, config.data.packing)

    build_s, loader = _timed(open_rows)
    open_s = statistics.median(_timed(open_rows)[0] for _ in range(20))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rates = [_epoch_tokens_per_s(loader, config.rows_per_step, epoch) for epoch in range(config.epochs)]
    print(f"{loader.rows_per_epoch:,} rows of {config.seq_len} per epoch; M tokens/s of each: {[round(rate / 1e6, 1) for rate in rates]}")
    return {
        "tokens_per_s": round(statistics.median(rates)),
        "open_s": round(open_s, 5),
        "build_s": round(build_s, 3),
        "packing": config.data.packing,
        "seq_len": config.seq_len,
        "rows_per_step": config.rows_per_step,
    }


def _epoch_tokens_per_s(loader: RowLoader, rows_per_step: int, epoch: int) -> float:
    steps = max(loader.rows_per_epoch // rows_per_step, 1)
    first = epoch * steps

    def read() -> None:
        for step in range(first, first + steps):
            loader.rows(step * rows_per_step, (step + 1) * rows_per_step)

    return steps * rows_per_step * loader.seq_len / _timed(read)[0]


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    value = function()
    return time.perf_counter() - begin, value


if __name__ == "__main__":
    run(main)
