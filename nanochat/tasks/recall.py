"""Recall over a long context: facts stated early, filler, then a question about one of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nanochat.tasks.grading import same_text
from nanochat.tasks.long.filler import sentence
from nanochat.tasks.procedural import Drawn, Procedural, at_least
from nanochat.tasks.task import Conversation, dialogue, reference
from nanochat.tasks.words import simple

MAX_FACTS = 10_000  # of some 340,000 names that can be drawn


@dataclass
class Recall(Procedural):
    """Several codes of made-up names, `filler` sentences, and the question for one code.

    A sentence of filler is some ten words. Everything is one message: a memory has to keep it, and no cut at a turn saves it.
    """

    facts: int = 4
    filler: int = 20  # sentences between the facts and the question
    digits: int = 4  # of a code

    label = "recall"
    reply_tokens = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("facts", self.facts, 1)
        if self.facts > MAX_FACTS:
            raise ValueError(f"facts is {self.facts}; there are names for {MAX_FACTS}")
        at_least("filler", self.filler, 0)
        at_least("digits", self.digits, 1)

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the fact asked for: no test asks for a name and code that training has asked for."""
        names: dict[str, str] = {}
        while len(names) < self.facts:
            names[simple(rng, 3)] = str(rng.randrange(10**self.digits)).zfill(self.digits)
        name, code = rng.choice(list(names.items()))
        facts = " ".join(f"The code of {name} is {code}." for name, code in names.items())
        filler = " ".join(sentence(rng) for _ in range(self.filler))
        question = f"Remember these codes. {facts} {filler} What is the code of {name}?".replace("  ", " ")
        return Drawn(f"{name} {code}", dialogue(question, code))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 for the code, digit by digit, and nothing else."""
        return float(same_text(reply, reference(conversation)))
