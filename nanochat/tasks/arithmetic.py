"""Arithmetic with the calculator, and comparison of numbers without it."""

from __future__ import annotations

import operator
import random
from dataclasses import dataclass

from nanochat.tasks.grading import same_number
from nanochat.tasks.procedural import Drawn, Procedural, at_least, one_of
from nanochat.tasks.task import Conversation, dialogue, with_tool

ASK = (
    "What is {expression}?", "Calculate {expression}.", "Work out {expression}.", "How much is {expression}?", "What's {expression}?",
    "{expression}", "Compute {expression}.",
)  # fmt: skip
COMPARE = {
    "larger": ("Which is larger, {a} or {b}?", "Which number is greater: {a} or {b}?"),
    "smaller": ("Which is smaller, {a} or {b}?", "Which number is less: {a} or {b}?"),
}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass
class Arithmetic(Procedural):
    """Whole numbers joined by +, − and ×; the answer calls the calculator and repeats its output."""

    digits: int = 3  # of a number, at most
    terms: int = 2  # numbers in an expression, at most
    operations: str = "+-*"

    label = "arithmetic"
    same = staticmethod(same_number)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, digits=self.digits)
        at_least(2, terms=self.terms)
        if not self.operations:
            raise ValueError(f"operations is empty; give some of {''.join(OPERATIONS)}")
        for operation in self.operations:
            one_of("operations", operation, tuple(OPERATIONS))

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the expression."""
        expression, value = self._expression(rng, rng.randint(2, self.terms))
        written = expression.replace(" ", "") if rng.random() < 0.2 else expression
        question = rng.choice(ASK).format(expression=written)
        return Drawn(expression, dialogue(question, with_tool(expression, str(value), str(value))))

    def _expression(self, rng: random.Random, terms: int) -> tuple[str, int]:
        """Expression of `terms` numbers, each operation but the outermost in parentheses, and its value."""
        if terms == 1:
            value = number(rng, self.digits)
            return str(value), value
        first = rng.randint(1, terms - 1)
        (left, a), (right, b) = self._expression(rng, first), self._expression(rng, terms - first)
        sign = rng.choice(self.operations)
        left, right = f"({left})" if first > 1 else left, f"({right})" if terms - first > 1 else right
        return f"{left} {sign} {right}", OPERATIONS[sign](a, b)


@dataclass
class Compare(Procedural):
    """The larger or the smaller of two different numbers."""

    digits: int = 2  # of a number, at most

    label = "compare"
    reply_tokens = 16
    same = staticmethod(same_number)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, digits=self.digits)

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the pair of numbers in either order."""
        a = b = number(rng, self.digits)
        while a == b:
            b = number(rng, self.digits)
        which = rng.choice(tuple(COMPARE))
        low, high = sorted((a, b))
        question = rng.choice(COMPARE[which]).format(a=a, b=b)
        return Drawn(f"{low} {high}", dialogue(question, str(high if which == "larger" else low)))

    def chance(self, conversation: Conversation) -> float:
        """One of two."""
        return 0.5


def number(rng: random.Random, digits: int) -> int:
    """Whole number of one to `digits` digits, every length equally likely."""
    return rng.randrange(10 ** rng.randint(1, digits))
