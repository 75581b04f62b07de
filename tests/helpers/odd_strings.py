"""Strings on which tokenizers differ."""

from __future__ import annotations

import random

from nanochat.data.tokenizer import SPECIAL_TOKENS
from tests.helpers.tiny_model import TEXT

# Where the pattern branches, in one to four bytes, and what other libraries treat otherwise.
TRICKY = "aZé字𝒳1²٣𝟘 \t\r\n\x0b\x1c\x85\xa0\u2028\u3000'’!.-_\0\x7f¡€🎉\u0301\u200d\ufeff\ufffeſsSdDmMtTlLvVeErRKßﬆ<|>"


def odd_strings(seed: int, count: int) -> list[str]:
    """Strings at the branches of the pattern, from all of Unicode, and with special tokens in them."""
    rng = random.Random(seed)
    planes = [(0x20, 0x7F), (0, 0x20), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]

    def part() -> str:
        kind = rng.random()
        if kind < 0.4:
            return "".join(rng.choices(TRICKY, k=rng.randrange(1, 20)))
        if kind < 0.7:
            return "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(1, 20)))
        if kind < 0.9:
            return rng.choice(TEXT.split())
        return rng.choice(SPECIAL_TOKENS)

    return ["", " ", *("".join(part() for _ in range(rng.randrange(1, 6))) for _ in range(count - 2))]
