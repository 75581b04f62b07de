"""Base of tasks with a long prompt that hides what is needed.

Such a task writes a prompt with a given amount of filler. As a task of the registry it has conversations with `filler` units to
train on; `nanochat.tasks.long.suite` fits the same prompts to a number of tokens for evaluation.
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
    """Prompt that ends with `prefix`, the beginning of the answer, which a chat puts into the assistant's turn."""

    key: str  # for the split
    text: str  # including the prefix
    prefix: str
    answers: tuple[str, ...]
    facts: tuple[Span, ...]  # of the text, needed for the answers
    depth: float | None  # share of the filler before the fact, if there is one fact


@dataclass
class LongPrompt(Procedural):
    """Task with a long prompt; a subclass has `write`. `grade` is for conversations; a suite has its own metric."""

    filler: int = 200  # in units of the task

    reply_tokens = 128
    placed = False  # true for a single fact, whose depth can be chosen
    ordered = True  # true if the order of the answers matters

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.least_filler, filler=self.filler)

    @property
    def least_filler(self) -> int:
        """The least filler with which the answer is determined."""
        return 0

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """Writes a prompt with `filler` units of filler.

        All but the filler depends on `rng` alone, so prompts with equal `rng` and different filler ask the same. `depth`, 0 … 1,
        is the place of the fact; None draws it. Tasks that are not `placed` raise `ValueError` for a depth.
        """
        raise NotImplementedError

    def refuse_depth(self, depth: float | None) -> None:
        """Raises `ValueError` for a depth, in a task that is not `placed`."""
        if depth is not None:
            raise ValueError(f"depth is {depth}; {self.label} has no single fact to place")

    def reply(self, answers: Sequence[str]) -> str:
        """Correct reply after the prefix."""
        return " ".join(answers)

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`."""
        prompt = self.write(rng, self.filler)
        answer = f"{prompt.prefix.strip()} {self.reply(prompt.answers)}"
        return Drawn(prompt.key, dialogue(prompt.text.removesuffix(prompt.prefix), answer, prefix=prompt.prefix.strip()))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 for exactly the answers, with or without the prefix, and nothing else."""
        said, right = (text.strip().removeprefix(conversation["prefix"]) for text in (reply, reference(conversation)))
        return float(same_text(said, right) if self.ordered else same_text(_sorted(said), _sorted(right)))


def woven(units: Sequence[str], facts: Sequence[tuple[int, str]], separator: str) -> tuple[str, list[Span]]:
    """Inserts each fact, (place, text), before the unit of that number; returns the text and the spans of the facts in it.

    Facts with the same place keep their order.
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
    """The spans shifted by `by` characters."""
    return tuple((begin + by, end + by) for begin, end in spans)


def _sorted(text: str) -> str:
    return " ".join(sorted(text.strip().removesuffix(".").split()))
