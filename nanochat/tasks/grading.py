"""Comparison of replies with answers: the differences that are allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from nanochat.data.tokenizer import Tokenizer

_NUMBER = re.compile(r"(?P<sign>[-+]?)\$?(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)")


def reply_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Text of a reply without its tool calls and their outputs. A call without an end extends to the end of the reply."""
    special = tokenizer.special_tokens
    ends = {special["<|python_start|>"]: special["<|python_end|>"], special["<|output_start|>"]: special["<|output_end|>"]}
    said: list[int] = []
    until: int | None = None
    for token in tokens:
        if until is not None:
            until = None if token == until else until
        elif token in ends:
            until = ends[token]
        else:
            said.append(token)
    return tokenizer.decode(said)


def same_text(reply: str, answer: str) -> bool:
    """True for equal texts, except for white space and a full stop at the end; False for empty ones."""
    return _plain(reply) == _plain(answer) != ""


def same_number(reply: str, answer: str) -> bool:
    """True if both are one number and nothing else, and equal: `1,200.` is `1200.0`, `-0` is `0`."""
    value = as_number(reply)
    return value is not None and value == as_number(answer)


def as_number(text: str) -> Fraction | None:
    """Exact value of a text that is one decimal number and nothing else; None for any other text.

    Commas between thousands, a `$` before and a full stop after it are allowed.
    """
    match = _NUMBER.fullmatch(_plain(text))
    return Fraction((match["sign"] + match["digits"]).replace(",", "")) if match else None


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip()
