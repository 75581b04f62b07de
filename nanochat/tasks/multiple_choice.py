"""Questions with lettered choices: ARC and MMLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.hub import HubSource
from nanochat.tasks.task import Conversation, dialogue

LETTERS = "ABCDEFGHIJ"


def multiple_choice(question: str, choices: Sequence[str], answer: int) -> Conversation:
    """Question with lettered choices; the answer is the letter of choice number `answer`.

    A letter is the same token at the start of a line as at the start of a reply. Raises `ValueError` for invalid arguments.
    """
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"there are {len(choices)} choices; there must be 2 to {len(LETTERS)}")
    if not 0 <= answer < len(choices):
        raise ValueError(f"invalid answer {answer}: there are {len(choices)} choices")
    letters = list(LETTERS[: len(choices)])
    lines = "\n".join(f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    return dialogue(f"{question}\n{lines}\nAnswer with one letter.", letters[answer], letters=letters)


class MultipleChoice(TableTask):
    """Table of multiple-choice questions."""

    kind = "categorical"
    reply_tokens = 4


class ArcEasy(MultipleChoice):
    """ARC, the easy questions (arXiv 1803.05457). Choices are lettered anew: some rows number them."""

    label = "arc-easy"
    source = HubSource("allenai/ai2_arc", "ARC-Easy", {"train": "train", "test": "test"})

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Columns: question, choices {text, label}, answerKey."""
        labels = list(row["choices"]["label"])
        return multiple_choice(row["question"], row["choices"]["text"], labels.index(row["answerKey"]))


class ArcChallenge(ArcEasy):
    """ARC, the questions that simple methods do not solve (arXiv 1803.05457)."""

    label = "arc-challenge"
    source = HubSource("allenai/ai2_arc", "ARC-Challenge", {"train": "train", "test": "test"})


class Mmlu(MultipleChoice):
    """MMLU (arXiv 2009.03300): 57 subjects; its auxiliary questions are the training split."""

    label = "mmlu"
    source = HubSource("cais/mmlu", "all", {"train": "auxiliary_train", "test": "test"})

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Columns: question, subject, choices, answer; auxiliary rows may have them inside `train`."""
        row = row.get("train") or row
        return multiple_choice(row["question"], row["choices"], int(row["answer"])) | {"subject": row.get("subject", "")}
