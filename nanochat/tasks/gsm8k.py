"""GSM8K (arXiv 2110.14168): grade-school word problems, solved step by step with a calculator."""

from __future__ import annotations

import re
from typing import Any

from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.grading import as_number
from nanochat.tasks.hub import HubSource
from nanochat.tasks.task import Conversation, dialogue, reference

ANSWER = "####"  # before the final number
_TAG = re.compile(r"<<(?P<code>[^<>]*?)=(?P<output>[^<>=]*)>>")


class Gsm8k(TableTask):
    """GSM8K with the calculator's tags, `<<48/2=24>>`, converted to calls of the calculator tool."""

    label = "gsm8k"
    kind = "generative"
    source = HubSource("openai/gsm8k", "main", {"train": "train", "test": "test"})
    reply_tokens = 512

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Columns: question, answer."""
        if final_number(row["answer"]) is None:
            raise ValueError(f"its answer does not end with {ANSWER} and a number")
        return dialogue(row["question"], _parts(row["answer"]))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 if the reply ends with `####` and the correct number."""
        number = final_number(reply)
        return float(number is not None and number == final_number(reference(conversation)))


def final_number(text: str) -> Any:
    """Exact number after the last `####`; None if there is none, or anything in addition to it."""
    _, mark, after = text.rpartition(ANSWER)
    return as_number(after) if mark else None


def _parts(answer: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    end = 0
    for tag in _TAG.finditer(answer):
        if tag.start() > end:
            parts.append({"type": "text", "text": answer[end : tag.start()]})
        parts += [{"type": "python", "text": tag["code"]}, {"type": "python_output", "text": tag["output"]}]
        end = tag.end()
    return [*parts, {"type": "text", "text": answer[end:]}]
