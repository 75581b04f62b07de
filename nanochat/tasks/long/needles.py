"""One fact hidden in a long prompt: the pass key, and the needle in a haystack, alone or among others.

The wording is that of the benchmarks, verbatim: the pass key's of epfml/landmark-attention, `llama/run_test.py` (arXiv
2305.16300), the needle's of NVIDIA/RULER, `scripts/data/synthetic/` `constants.py` and `niah.py` (arXiv 2404.06654). Differences:
depths are uniform instead of one of 40; the last sentence of the filler may be cut, to match a length; the queried key and value
occur once, which RULER leaves to chance; names are drawn from fewer words; for the haystack of essays see `filler`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from nanochat.tasks.long.filler import NOISE, NOUNS, PAIRS, essay, noise, number, pair, uuid4
from nanochat.tasks.long.prompt_task import LongPrompt, Prompt, moved, woven
from nanochat.tasks.procedural import at_least, one_of

PASSKEY_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
PASSKEY_FACT = "The pass key is {key}. Remember it. {key} is the pass key."
PASSKEY_QUESTION = "What is the pass key?"
PASSKEY_PREFIX = " The pass key is"
LARGEST_PASSKEY = 50_000

# RULER's template with its own replacements for one value: Some → A, are all → is, are → is, numbers → number.
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NEEDLE_TASK = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} afterwards."
)
NEEDLE_QUESTION = "What is the special magic {kind} for {key} mentioned in the provided text?"
NEEDLE_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"

HAYSTACKS = ("noise", "essay", "needles")
KEYS = ("words", "uuids", "nouns")
VALUES = ("numbers", "uuids")
NUMBER_DIGITS = 7
UUID_DIGITS = 8  # of a shortened one, at most


@dataclass
class Passkey(LongPrompt):
    """Number that one line states twice. Filler is counted in characters."""

    digits: int | None = None  # of the number; by default it is one of 1 … 50,000

    label = "passkey"
    reply_tokens = 24
    placed = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, digits=self.digits)

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """See `LongPrompt`. The key is the number."""
        key = str(rng.randint(1, LARGEST_PASSKEY)) if self.digits is None else number(rng, self.digits)
        place = rng.random()
        before = int(place * (filler + 1)) if depth is None else round(depth * filler)
        fact = PASSKEY_FACT.format(key=key)
        lines = [PASSKEY_TASK, _characters(before), fact, _characters(filler - before), PASSKEY_QUESTION + PASSKEY_PREFIX]
        begin = len(lines[0]) + len(lines[1]) + 2
        return Prompt(key, "\n".join(lines), PASSKEY_PREFIX, (key,), ((begin, begin + len(fact)),), before / filler if filler else 0.0)


@dataclass
class Niah(LongPrompt):
    """Needle in a haystack: `One of the special magic numbers for quiet-lamp is: 7491023.`

    Filler is counted in words of noise or of an essay, or in needles that are not queried.
    """

    haystack: str = "noise"  # noise, essay or needles
    keys: str = "words"  # words: an adjective and a noun; nouns: one word; uuids
    values: str = "numbers"  # numbers or uuids
    needles: int = 1  # of which one is queried
    digits: int | None = None  # of a number, by default 7; first digits of a UUID, by default all

    label = "niah"
    placed = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("haystack", self.haystack, HAYSTACKS)
        one_of("keys", self.keys, KEYS)
        one_of("values", self.values, VALUES)
        at_least(1, needles=self.needles, digits=self.digits)
        if "uuids" in (self.keys, self.values) and (self.digits or 0) > UUID_DIGITS:
            raise ValueError(f"digits is {self.digits}; a short UUID has at most {UUID_DIGITS}")
        hexadecimal = 16 ** (self.digits or UUID_DIGITS)
        of_keys = {"words": PAIRS, "nouns": len(NOUNS), "uuids": hexadecimal}[self.keys]
        of_values = hexadecimal if self.values == "uuids" else 9 * 10 ** ((self.digits or NUMBER_DIGITS) - 1)
        if 2 * self.needles > (most := min(of_keys, of_values)):
            raise ValueError(f"needles is {self.needles}; {most} different keys and values allow {most // 2}")

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """See `LongPrompt`. The key is that of the queried needle; no other needle has its key or value."""
        keys = _different(self.needles, lambda: self._key(rng))
        values = _different(self.needles, lambda: self._value(rng))
        places = [rng.random() for _ in range(self.needles)]
        key, value = keys[0], values[0]
        units = self._units(rng, filler, key, value)
        before = [int(place * (len(units) + 1)) for place in places]
        if depth is not None:
            before[0] = round(depth * len(units))
        facts = [(place, self._needle(*item)) for place, *item in zip(before, keys, values, strict=True)]
        context, spans = woven(units, facts, " " if self.haystack == "essay" else "\n")
        kind = self.values.removesuffix("s")
        task, question, prefix = (text.format(kind=kind, key=key) for text in (NEEDLE_TASK, NEEDLE_QUESTION, NEEDLE_PREFIX))
        text = f"{task}\n{context}\n{question}{prefix}"
        return Prompt(key, text, prefix, (value,), moved(spans[:1], len(task) + 1), before[0] / len(units) if units else 0.0)

    def _units(self, rng: random.Random, filler: int, key: str, value: str) -> list[str]:
        if self.haystack == "noise":
            return noise(filler)
        if self.haystack == "essay":
            return essay(rng, filler)
        others = [(_other(key, lambda: self._key(rng)), _other(value, lambda: self._value(rng))) for _ in range(filler)]
        return [self._needle(*other) for other in others]

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.values.removesuffix("s"), key=key, value=value)

    def _key(self, rng: random.Random) -> str:
        if self.keys == "uuids":
            return uuid4(rng, self.digits)
        return pair(rng) if self.keys == "words" else rng.choice(NOUNS)

    def _value(self, rng: random.Random) -> str:
        return uuid4(rng, self.digits) if self.values == "uuids" else number(rng, self.digits or NUMBER_DIGITS)


@dataclass
class NiahMultikey(Niah):
    """Needle among other needles."""

    needles: int = 4

    label = "niah_multikey"

    def is_held_out(self, key: str) -> bool:
        """See `Procedural`; shares the split with `Niah`, so that neither tests a key that the other trains."""
        return Niah().is_held_out(key)


def _characters(count: int) -> str:
    """First characters of the repeated noise."""
    return ((NOISE + " ") * (count // len(NOISE) + 1))[:count]


def _different(count: int, draw: Callable[[], str]) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw()] = None
    return list(drawn)


def _other(than: str, draw: Callable[[], str]) -> str:
    while (drawn := draw()) == than:
        pass
    return drawn
