"""Counting over a long text: the most common words of a list, and the most frequent coded words.

The wording is NVIDIA/RULER's, verbatim (`scripts/data/synthetic/` `constants.py`, `common_words_extraction.py` and
`freq_words_extraction.py`, arXiv 2404.06654). Differences: the words are our own, and made-up ones if a list is longer than these;
the answers of the first task are in the order of their first occurrence; each prompt is shuffled anew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.tasks.long.filler import NOUNS, WORDS, coded_words, different_words
from nanochat.tasks.long.prompt_task import LongPrompt, Prompt
from nanochat.tasks.procedural import at_least, one_of

COMMON_TASK = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n"
)
COMMON_QUESTION = "\nQuestion: What are the {count} most common words in the above list?"
COMMON_PREFIX = " Answer: The top {count} words that appear most often in the list are:"

FREQUENT_TASK = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. "
)
FREQUENT_QUESTION = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
FREQUENT_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"
ASKED = 3  # frequent words, as the question says
NOISE_WORD = "..."

POOLS = {"all": WORDS, "nouns": NOUNS}


@dataclass
class CommonWords(LongPrompt):
    """List `1. river 2. apple 3. river …` with some common words. Filler is counted in the other words."""

    common: int = 10  # number of common words
    repeats: int = 6  # of each common word
    others: int = 1  # repeats of each other word
    words: str = "all"  # all, or short nouns
    shots: int = 0  # examples before the question
    shot_filler: int = 10  # other words in an example
    shot_repeats: int = 3  # of each common word in an example

    label = "common_words"
    ordered = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("words", self.words, tuple(POOLS))
        at_least(0, shots=self.shots, shot_filler=self.shot_filler)
        at_least(1, common=self.common, others=self.others)
        at_least(self.others + 1, repeats=self.repeats, shot_repeats=self.shot_repeats)
        if self.common > (most := len(POOLS[self.words]) // 4):
            raise ValueError(f"common is {self.common}; with words={self.words} it can be at most {most}")

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """See `LongPrompt`. The key is the set of common words; the whole list is needed."""
        self.refuse_depth(depth)
        chosen = rng.sample(POOLS[self.words], self.common)
        question, prefix = (text.format(count=self.common) for text in (COMMON_QUESTION, COMMON_PREFIX))
        before = ""
        for _ in range(self.shots):
            some, answers = self._list(rng, rng.sample(POOLS[self.words], self.common), self.shot_repeats, self.shot_filler)
            before += f"{COMMON_TASK}{some}{question}{prefix} {self.reply(answers)}\n"
        context, answers = self._list(rng, chosen, self.repeats, filler)
        begin = len(before) + len(COMMON_TASK)
        text = f"{before}{COMMON_TASK}{context}{question}{prefix}"
        return Prompt(" ".join(sorted(chosen)), text, prefix, answers, ((begin, begin + len(context)),), None)

    def reply(self, answers: Sequence[str]) -> str:
        """See `LongPrompt`; numbered, as in RULER's examples."""
        return " ".join(f"{i + 1}. {word}" for i, word in enumerate(answers))

    def _list(self, rng: random.Random, chosen: list[str], repeats: int, filler: int) -> tuple[str, tuple[str, ...]]:
        """Numbered list, and the chosen words in the order of their first occurrence in it."""
        rest = different_words(rng, filler, POOLS[self.words], set(chosen))
        words = chosen * repeats + rest * self.others
        rng.shuffle(words)
        first = {word: i for i, word in reversed(list(enumerate(words)))}
        return " ".join(f"{i + 1}. {word}" for i, word in enumerate(words)), tuple(sorted(chosen, key=first.__getitem__))


@dataclass
class FrequentWords(LongPrompt):
    """Coded words whose frequencies follow a zeta distribution; the most frequent is dots and does not count.

    The word of rank r occurs `filler · r^−alpha / zeta(alpha)` times, rounded down; so `filler` is slightly above the word count.
    """

    vocabulary: int = 20  # different words, including the dots
    letters: int = 6  # of a word
    alpha: float = 2.0  # of the distribution

    label = "frequent_words"
    ordered = False

    def __post_init__(self) -> None:
        at_least(ASKED + 1, vocabulary=self.vocabulary)
        at_least(1, letters=self.letters)
        if not 1 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; it must be above 1")
        if self.vocabulary > (most := 26**self.letters):
            raise ValueError(f"vocabulary is {self.vocabulary}; {self.letters} letters make {most} words")
        super().__post_init__()

    @property
    def least_filler(self) -> int:
        """See `LongPrompt`; enough that the third word is more frequent than the next, despite rounding."""
        return math.ceil(zeta(self.alpha) / ((ASKED + 1) ** -self.alpha - (ASKED + 2) ** -self.alpha))

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """See `LongPrompt`. The key is the set of frequent words; the whole text is needed."""
        self.refuse_depth(depth)
        vocabulary = [NOISE_WORD, *coded_words(rng, self.vocabulary - 1, self.letters)]
        scale = filler / zeta(self.alpha)
        words = [word for rank, word in enumerate(vocabulary, start=1) for _ in range(int(scale * rank**-self.alpha))]
        rng.shuffle(words)
        context, answers = " ".join(words), tuple(vocabulary[1 : ASKED + 1])
        text = f"{FREQUENT_TASK}{context}{FREQUENT_QUESTION}{FREQUENT_PREFIX}"
        begin = len(FREQUENT_TASK)
        return Prompt(" ".join(sorted(answers)), text, FREQUENT_PREFIX, answers, ((begin, begin + len(context)),), None)


def zeta(alpha: float, terms: int = 1000) -> float:
    """Riemann's zeta function for alpha > 1: its first terms, and the rest by the Euler–Maclaurin formula."""
    rest = terms ** (1 - alpha) / (alpha - 1) - terms**-alpha / 2 + alpha * terms ** (-alpha - 1) / 12
    return sum(k**-alpha for k in range(1, terms + 1)) + rest
