"""Tasks of one long prompt that hides what is needed: what they have in common.

Such a task writes a prompt with as much filler as it is told to. As a task of the registry it gives conversations with `filler`
units of it, to learn from; `nanochat.tasks.long.suite` fits the same prompts to a number of tokens, to measure with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nanochat.tasks.grading import same_text
from nanochat.tasks.procedural import Drawn, Procedural, at_least
from nanochat.tasks.task import Conversation, dialogue, reference

Span = tuple[int, int]  # characters [begin, end)


class Prompt(NamedTuple):
    """A prompt whose end, `prefix`, is the beginning of the answer: a chat puts it into the assistant's turn."""

    key: str  # what is asked, for the split
    text: str  # the prefix included
    prefix: str
    answers: tuple[str, ...]
    facts: tuple[Span, ...]  # what of the text is needed
    depth: float | None  # share of the filler before the fact, where there is one


@dataclass
class LongPrompt(Procedural):
    """A subclass has `write`. Its metric on the prompts of a suite is that of `long_context`; `grade` is for whole replies."""

    filler: int = 200  # units, of which each task says what they are

    reply_tokens = 128
    placed = False  # whether there is one fact, whose depth can be chosen
    ordered = True  # whether the order of the answers matters

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("filler", self.filler, self.least_filler)

    @property
    def least_filler(self) -> int:
        """The fewest units with which the answer is determined."""
        return 0

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """A prompt with `filler` units of filler.

        All but the filler depends on `rng` alone, so that prompts of equal `rng` and different filler ask the same. `depth`,
        0 … 1, says where the fact is; None draws it. Only a task that is `placed` takes a depth.
        """
        raise NotImplementedError

    def reply(self, answers: Sequence[str]) -> str:
        """What follows the prefix in a right reply."""
        return " ".join(answers)

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`."""
        prompt = self.write(rng, self.filler)
        answer = f"{prompt.prefix.strip()} {self.reply(prompt.answers)}"
        return Drawn(prompt.key, dialogue(prompt.text.removesuffix(prompt.prefix), answer, prefix=prompt.prefix.strip()))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 for exactly the answers, with the prefix or without it, and nothing else."""
        said, right = (text.strip().removeprefix(conversation["prefix"]) for text in (reply, reference(conversation)))
        return float(same_text(said, right) if self.ordered else same_text(_sorted(said), _sorted(right)))


def woven(units: Sequence[str], facts: Sequence[tuple[int, str]], separator: str) -> tuple[str, list[Span]]:
    """The units with each fact, a place and a text, before the unit of that number; and where the texts of the facts are.

    Facts of one place keep their order.
    """
    chunks: list[str] = []
    spans: list[Span] = [(0, 0)] * len(facts)
    length = previous = 0
    for i in sorted(range(len(facts)), key=lambda i: facts[i][0]):
        place, text = facts[i]
        between = separator.join(units[previous:place])
        if place > previous:
            chunks.append(between)
            length += len(between) + len(separator)
        chunks.append(text)
        spans[i] = (length, length + len(text))
        length += len(text) + len(separator)
        previous = place
    return separator.join([*chunks, *units[previous:]]), spans


def moved(spans: Sequence[Span], by: int) -> tuple[Span, ...]:
    """The spans after so many more characters."""
    return tuple((begin + by, end + by) for begin, end in spans)


def _sorted(text: str) -> str:
    return " ".join(sorted(text.strip().removesuffix(".").split()))
