"""Trains the tokenizer: `python -m scripts.tok_train`. Writes `$NANOCHAT_BASE_DIR/tokenizer`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nanochat.common import base_dir
from nanochat.data.left_out import LeftOut
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.splits import SPLITS
from nanochat.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from nanochat.flags import flag, parse, part, run
from nanochat.report.sections import section
from nanochat.runtime.folder_lock import hold


@dataclass
class TokTrain:
    """Train the tokenizer on the training split of a dataset."""

    data: DataFlags = part(DataFlags)
    vocab_size: int = flag(32768, "vocabulary size, including special tokens", unit="tokens")
    max_chars: int = flag(2_000_000_000, "maximum amount of text to read", unit="characters")
    doc_cap: int = flag(0, "maximum length of a document, longer ones are cut; 0 = whole documents", unit="characters")

    def __post_init__(self) -> None:
        if not MIN_VOCAB_SIZE <= self.vocab_size <= 1 << 24:
            raise ValueError(f"invalid vocab_size {self.vocab_size}: must be from {MIN_VOCAB_SIZE} to {1 << 24}")
        if self.max_chars < 1:
            raise ValueError(f"invalid max_chars {self.max_chars}: must be at least 1")
        if self.doc_cap < 0:
            raise ValueError(f"invalid doc_cap {self.doc_cap}: must be at least 0")


@dataclass
class Amount:
    """Amount of text read."""

    documents: int = 0
    bytes: int = 0


def limited(texts: Iterable[str], max_chars: int, doc_cap: int, read: Amount) -> Iterator[str]:
    """`texts`, each cut to `doc_cap` characters (0 = not), until `max_chars` are reached. Counts them in `read`."""
    left = max_chars
    for text in texts:
        text = text[: min(left, doc_cap or left)]
        left -= len(text)
        read.documents += 1
        read.bytes += len(text) if text.isascii() else len(text.encode())
        yield text
        if left == 0:
            return


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(TokTrain, argv)
    with hold(base_dir() / "tokenizer", print, "or set NANOCHAT_BASE_DIR to another folder"):
        train(config)
    return 0


def train(config: TokTrain) -> None:
    """Trains, saves and reports."""
    source = open_source(config.data.dataset, config.data.text_column)
    for split in SPLITS:
        files = [file.size for part in source.parts(split) for file in part.files]
        print(f"{source.name}/{split}: {len(files):,} file{'s' * (len(files) != 1)}, {sum(files):,} bytes on disk")
    read, left_out = Amount(), LeftOut()
    start = time.perf_counter()
    texts = source.documents("train", left_out)
    tokenizer = Tokenizer.train(limited(texts, config.max_chars, config.doc_cap, read), config.vocab_size)
    seconds = time.perf_counter() - start
    folder = base_dir() / "tokenizer"
    tokenizer.save(folder)
    speed = read.bytes / 1e6 / seconds
    lengths = tokenizer.token_bytes()
    print(f"{read.documents:,} documents of {source.name}, {read.bytes / 1e6:,.1f} MB, in {seconds:.2f} s: {speed:,.1f} MB/s")
    if lost := (source.left_out + left_out).line:
        print(lost)
    print(f"tokenizer {tokenizer.fingerprint}, {tokenizer.vocab_size:,} tokens, in {folder}")
    values = {
        "dataset": source.name,
        "documents": read.documents,
        "bytes": read.bytes,
        "left_out": (source.left_out + left_out).line or "nothing",
        "seconds": round(seconds, 3),
        "mb_per_s": round(speed, 1),
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_tokens),
        "longest_token_bytes": int(lengths.max()),
        "mean_token_bytes": round(float(lengths[lengths > 0].mean()), 2),
        "fingerprint": tokenizer.fingerprint,
    }
    section("tokenizer_training", values)


if __name__ == "__main__":
    run(main)
