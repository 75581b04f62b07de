"""Splits of a small dataset, made so that training and validation each fill a row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from nanochat.common import UserError
from nanochat.data.left_out import LeftOut
from nanochat.data.sources import Source
from nanochat.data.splits import SHARES, SPLITS, Role, Split
from nanochat.data.text_files import is_whole_text
from nanochat.data.tokenizer import Tokenizer

SURELY_ENOUGH = 1 << 26  # bytes of whole texts whose tails are not measured
_CHARS = 1 << 20  # encoded at once
_HELD_OUT: dict[Role, str] = {"hash": "of the documents", "tail": "at the end of each document"}


def fit_splits(source: Source, tokenizer: Tokenizer, seq_len: int, say: Callable[[str], None] = print) -> Source:
    """The source if its splits fill a row of `seq_len` each, or if names say what they are; else one that holds out more.

    More documents first; tails of all documents if that is not enough. Reads as much as it takes to know. `say` is told about
    another share. Raises `UserError` if the text is too short for two rows.
    """
    roles = {file.role for file in source.files if file.size}
    is_big = roles == {"tail"} and sum(file.size for file in source.files) > SURELY_ENOUGH
    if roles - {"hash", "tail"} or is_big or _fits(source, tokenizer, seq_len):
        return source
    ways: tuple[Role, ...] = ("tail",) if all(is_whole_text(file.path) for file in source.files) else ("hash", "tail")
    for role, share in itertools.product(ways, SHARES):
        other = source.split_otherwise(role, share)
        if other.fingerprint != source.fingerprint and _fits(other, tokenizer, seq_len):
            fitting = replace(other, extra=source.extra | {"held out": f"{share:.0%} {_HELD_OUT[role]}"})
            say(f"{source.name}: small, so {fitting.extra['held out']} are for validation, which fills a row of {seq_len} tokens")
            return fitting
    tokens = _count(source.whole_documents(), tokenizer, 4 * (seq_len + 1))
    if not tokens:
        next(source.documents("train"))  # raises: it says what was left out
    shorter = f", or shorter rows (--max-seq-len {tokens // 4} or less)" if tokens >= 8 else ""
    raise UserError(f"{source.name}: its {tokens:,} tokens are too few to train and validate on rows of {seq_len}; give more text{shorter}")


def _fits(source: Source, tokenizer: Tokenizer, seq_len: int) -> bool:
    return all(_count(_documents(source, split), tokenizer, seq_len + 1) > seq_len for split in SPLITS)


def _documents(source: Source, split: Split) -> Iterator[str]:
    return (text for part in source.parts(split) for text in part.documents(LeftOut()))


def _count(texts: Iterator[str], tokenizer: Tokenizer, enough: int) -> int:
    """The number of tokens of the texts, at least if it is below `enough`; reads no more than these."""
    count = 0
    for text in texts:
        for begin in range(0, len(text), _CHARS):
            count += len(tokenizer.encode_bulk([text[begin : begin + _CHARS]], bos=True)[0])
            if count >= enough:
                return count
    return count
