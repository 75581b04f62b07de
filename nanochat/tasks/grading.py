"""When a reply is the answer: what may differ, and nothing else may."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def same_text(reply: str, answer: str) -> bool:
    """Equal but for spaces around and between words and a full stop at the end."""
    return _plain(reply) == _plain(answer) != ""


def same_number(reply: str, answer: str) -> bool:
    """Both are one number and nothing else, and equal: `1,200.` is `1200.0`, `-0` is `0`."""
    value = as_number(reply)
    return value is not None and value == as_number(answer)


def as_number(text: str) -> Fraction | None:
    """The exact value where `text` is one decimal number, with or without commas between thousands, a `$` before and a full
    stop after it; None for anything else."""
    text = _plain(text)
    sign = text[:1] if text[:1] in "+-" else ""
    text = sign + text.removeprefix(sign).removeprefix("$") if sign else text.removeprefix("$")
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip()
