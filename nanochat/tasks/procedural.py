"""Tasks made by rule: example i is a pure function of (task, split, seed, i), and no test example is a training example.

Drawn examples are told apart by a key, which says what is asked and not how. The hash of the key decides which split an
example belongs to; one of the other split is drawn again. So the splits are disjoint however small the space of keys is.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from nanochat.common import UserError
from nanochat.tasks.task import Conversation, Split, Task

TRAIN_EXAMPLES = 20_000
TEST_EXAMPLES = 200
TEST_SHARE = 4  # one key in so many is for testing
MAX_DRAWS = 2_000


class Drawn(NamedTuple):
    """An example, and the key of what it asks."""

    key: str
    conversation: Conversation


@dataclass
class Procedural(Task):
    """A task made by rule. A subclass is a dataclass whose fields are the options of its spec, and has `draw`."""

    split: Split = field(default="train", kw_only=True)
    seed: int = field(default=0, kw_only=True)
    name: str = field(default="", kw_only=True)  # with the options, as in the spec; by default that of the class

    label = "procedural"
    kind = "generative"
    endless = True
    reply_tokens = 64

    def __post_init__(self) -> None:
        self.name = self.name or self.label

    def __len__(self) -> int:
        return TRAIN_EXAMPLES if self.split == "train" else TEST_EXAMPLES

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        for attempt in range(MAX_DRAWS):
            text = f"{self.name}\0{self.seed}\0{self.split}\0{index}\0{attempt}"
            drawn = self.draw(random.Random(int.from_bytes(_hash(text), "little")))
            if self.is_held_out(drawn.key) == (self.split == "test"):
                return drawn.conversation
        raise UserError(f"{self.name} has too few different examples for a {self.split} split; give it options that allow more")

    def draw(self, rng: random.Random) -> Drawn:
        """Any example, of either split, out of the random numbers of `rng` alone."""
        raise NotImplementedError

    def is_held_out(self, key: str) -> bool:
        """Whether the examples of this key are for testing."""
        return int.from_bytes(_hash(f"{self.label}\0{key}"), "little") % TEST_SHARE == 0


def at_least(name: str, value: int, least: int) -> None:
    """Raises `ValueError` naming an option that is below `least`."""
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `ValueError` naming an option that is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
