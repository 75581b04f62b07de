"""A task whose reference answers a test tells it."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.tasks.task import Conversation, Task, dialogue


class Told(Task):
    """Question i is of length i and has the answer `answers[i]`; with letters it is categorical."""

    def __init__(self, answers: Sequence[str], letters: Sequence[str] = (), name: str = "told") -> None:
        self.name, self.answers, self.letters = name, answers, letters
        self.kind = "categorical" if letters else "generative"

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        question = "why " * (index % 7) + f"{index}?"
        if not self.letters:
            return dialogue(question, self.answers[index])
        return dialogue(question, self.answers[index], letters=list(self.letters[index]))
