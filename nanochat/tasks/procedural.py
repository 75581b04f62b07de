"""Procedural tasks: example i is a pure function of (task, split, seed, i), and no test example is a training example.

Every example has a key, which identifies the question, whatever its wording. The hash of the key decides to which split the example
belongs; one of the other split is drawn again. So the splits are disjoint even if there are few keys.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from nanochat.common import UserError
from nanochat.tasks.grading import same_text
from nanochat.tasks.task import Conversation, Split, Task, digest, reference

TRAIN_EXAMPLES = 20_000
TEST_EXAMPLES = 200
TEST_SHARE = 4  # one key in this many is for testing
MAX_DRAWS = 2_000


class Drawn(NamedTuple):
    """Example with the key of its question."""

    key: str
    conversation: Conversation


@dataclass
class Procedural(Task):
    """Procedural task. A subclass is a dataclass whose fields are the options of its spec, and has `draw`.

    A reply is correct if it is the `same` as the reference answer.
    """

    split: Split = field(default="train", kw_only=True)
    seed: int = field(default=0, kw_only=True)
    name: str = field(default="", kw_only=True)  # the spec, with its options; by default the label

    label = "procedural"
    kind = "generative"
    endless = True
    reply_tokens = 64
    same = staticmethod(same_text)

    def __post_init__(self) -> None:
        self.name = self.name or self.label

    def __len__(self) -> int:
        return TRAIN_EXAMPLES if self.split == "train" else TEST_EXAMPLES

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        for attempt in range(MAX_DRAWS):
            text = f"{self.name}\0{self.seed}\0{self.split}\0{index}\0{attempt}"
            drawn = self.draw(seeded(text))
            if self.is_held_out(drawn.key) == (self.split == "test"):
                return drawn.conversation
        raise UserError(f"{self.name} has too few different examples for a {self.split} split; give options that allow more")

    def draw(self, rng: random.Random) -> Drawn:
        """Any example, of either split, from the random numbers of `rng` alone."""
        raise NotImplementedError

    def grade(self, conversation: Conversation, reply: str) -> float:
        """See `Task`."""
        return float(self.same(reply, reference(conversation)))

    def is_held_out(self, key: str) -> bool:
        """True if the examples with this key are for testing."""
        return int.from_bytes(digest(f"{self.label}\0{key}"), "little") % TEST_SHARE == 0


def at_least(least: int, **values: int | None) -> None:
    """Raises `ValueError` naming an option that is below `least`; None is allowed."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `ValueError` naming an option that is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def seeded(text: str) -> random.Random:
    """Random numbers that are a function of a text."""
    return random.Random(int.from_bytes(digest(text), "little"))
