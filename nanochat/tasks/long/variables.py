"""Variable tracking: chains of assignments in a long text, and the question which variables have a value in the end.

The wording is NVIDIA/RULER's, verbatim (`scripts/data/synthetic/` `constants.py` and `variable_tracking.py`, arXiv 2404.06654),
with its example of the task before the question. Differences: the lines of a chain may follow each other without filler between
them, the last line of the filler may be cut, and each prompt has its own example, while RULER only changes the names in one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from nanochat.tasks.long.filler import noise, variable_names
from nanochat.tasks.long.prompt_task import LongPrompt, Prompt, Span, moved, woven
from nanochat.tasks.procedural import at_least

TASK = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
QUESTION = "\nQuestion: Find all variables that are assigned the value {value} in the text above."
PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, "
    "{count} variables are assigned the value {value}, they are: "
)
SHOT_LETTERS = 3


@dataclass
class Variables(LongPrompt):
    """Chains `VAR QXZVB = 12345`, later `VAR LKJHG = VAR QXZVB `, and so on. Filler is counted in words of noise."""

    hops: int = 4  # assignments from variable to variable in a chain
    chains: int = 1  # of which one is queried
    letters: int = 5  # of a name
    digits: int = 5  # of a value
    shots: int = 0  # examples before the question
    shot_filler: int = 100  # words of noise in an example

    label = "variables"
    ordered = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, hops=self.hops, chains=self.chains, letters=self.letters, digits=self.digits)
        at_least(0, shots=self.shots, shot_filler=self.shot_filler)
        names = self.chains * (self.hops + 1)
        if names > (most := 26**self.letters):
            raise ValueError(f"letters is {self.letters}; that makes {most} names, and {self.chains} chains need {names}")
        if 2 * (self.chains + self.shots) > (values := 9 * 10 ** (self.digits - 1)):
            raise ValueError(f"digits is {self.digits}; {values} values are too few for {self.chains} chains and {self.shots} shots")

    def write(self, rng: random.Random, filler: int, depth: float | None = None) -> Prompt:
        """See `LongPrompt`. The key is the value; the answers are the variables in the order of their chain."""
        self.refuse_depth(depth)
        values = [str(value) for value in rng.sample(range(10 ** (self.digits - 1), 10**self.digits), self.chains + self.shots)]
        value, shots = values[0], ""
        for i in range(self.shots):
            text, prefix, names, _ = self._block(rng, values[self.chains + i :][:1], self.shot_filler, min(SHOT_LETTERS, self.letters))
            shots += f"{text}{prefix} {' '.join(names)}\n\n"
        text, prefix, names, spans = self._block(rng, values[: self.chains], filler, self.letters)
        return Prompt(value, shots + text + prefix, prefix, tuple(names), moved(spans, len(shots)), None)

    def _block(self, rng: random.Random, values: list[str], filler: int, letters: int) -> tuple[str, str, list[str], tuple[Span, ...]]:
        """Task, text and question; the prefix; the variables of the first value; the spans of their lines."""
        length = self.hops + 1
        names = variable_names(rng, length * len(values), max(letters, self._least_letters(len(values))))
        lines = noise(filler)
        placed: list[tuple[int, str]] = []
        for i, value in enumerate(values):
            chain = names[i * length : (i + 1) * length]
            # RULER ends the line of a hop with a space.
            said = [f"VAR {chain[0]} = {value}", *(f"VAR {new} = VAR {old} " for old, new in zip(chain, chain[1:], strict=False))]
            places = sorted(int(rng.random() * (len(lines) + 1)) for _ in said)
            placed += zip(places, said, strict=True)
        context, spans = woven(lines, placed, "\n")
        question, prefix = (text.format(value=values[0], count=length) for text in (QUESTION, PREFIX))
        return f"{TASK}{context}{question}", prefix, names[:length], moved(spans[:length], len(TASK))

    def _least_letters(self, chains: int) -> int:
        """The least number of letters that give enough names."""
        return next(n for n in range(1, self.letters + 1) if 26**n >= chains * (self.hops + 1))
