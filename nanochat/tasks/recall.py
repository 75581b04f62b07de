"""Recall over a long context: facts, filler, then a question about one of the facts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nanochat.tasks.long.filler import sentence
from nanochat.tasks.procedural import Drawn, Procedural, at_least
from nanochat.tasks.task import dialogue
from nanochat.tasks.words import simple

MAX_FACTS = 10_000  # of some 340,000 possible names


@dataclass
class Recall(Procedural):
    """Several codes of made-up names, `filler` sentences of some ten words, and the question for one code.

    Everything is one message, so that it cannot be split at a turn.
    """

    facts: int = 4
    filler: int = 20  # sentences between the facts and the question
    digits: int = 4  # of a code

    label = "recall"
    reply_tokens = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, facts=self.facts, digits=self.digits)
        at_least(0, filler=self.filler)
        if self.facts > MAX_FACTS:
            raise ValueError(f"facts is {self.facts}; there are names for {MAX_FACTS}")

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the queried name and its code."""
        names: dict[str, str] = {}
        while len(names) < self.facts:
            names[simple(rng, 3)] = str(rng.randrange(10**self.digits)).zfill(self.digits)
        name, code = rng.choice(list(names.items()))
        facts = " ".join(f"The code of {name} is {code}." for name, code in names.items())
        filler = " ".join(sentence(rng) for _ in range(self.filler))
        question = f"Remember these codes. {facts} {filler} What is the code of {name}?".replace("  ", " ")
        return Drawn(f"{name} {code}", dialogue(question, code))
