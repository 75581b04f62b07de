"""Short lists to copy, reverse, sort, or take the first or last item of."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from nanochat.tasks.procedural import Drawn, Procedural, at_least, one_of
from nanochat.tasks.task import dialogue

OPERATIONS: dict[str, tuple[str, Callable[[list[str]], list[str]]]] = {
    "copy": ("Repeat the list: {items}", lambda items: items),
    "reverse": ("Reverse the list: {items}", lambda items: items[::-1]),
    "sort": ("Sort the list: {items}", sorted),
    "first": ("What is the first of the list: {items}", lambda items: items[:1]),
    "last": ("What is the last of the list: {items}", lambda items: items[-1:]),
}
ANY = "any"


@dataclass
class Lists(Procedural):
    """List of different letters, and an operation on it."""

    do: str = ANY  # copy, reverse, sort, first or last; any: one of them at random
    items: int = 6  # in a list, at most; at least two

    label = "lists"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("do", self.do, (ANY, *OPERATIONS))
        at_least(2, items=self.items)
        if self.items > len(string.ascii_lowercase):
            raise ValueError(f"items is {self.items}; there are only {len(string.ascii_lowercase)} letters")

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the list, so a list is held out of all operations."""
        items = rng.sample(string.ascii_lowercase, rng.randint(2, self.items))
        ask, operation = OPERATIONS[rng.choice(tuple(OPERATIONS)) if self.do == ANY else self.do]
        return Drawn(" ".join(items), dialogue(ask.format(items=" ".join(items)), " ".join(operation(items))))
