"""GSM8K (arXiv 2110.14168): grade-school word problems, solved step by step with a calculator."""

from __future__ import annotations

import re
from typing import Any

from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.grading import as_number
from nanochat.tasks.hub import Source
from nanochat.tasks.task import Conversation, dialogue, reference

ANSWER = "####"  # stands before the final number
_TAG = re.compile(r"<<(?P<code>[^<>]*?)=(?P<output>[^<>=]*)>>")


class Gsm8k(TableTask):
    """The calculator's tags in the data, `<<48/2=24>>`, become calls of the calculator tool."""

    label = "gsm8k"
    kind = "generative"
    source = Source("openai/gsm8k", "main", {"train": "train", "test": "test"})
    reply_tokens = 512

    def convert(self, row: dict[str, Any]) -> Conversation:
        """See `TableTask`. Columns: question, answer."""
        if final_number(row["answer"]) is None:
            raise ValueError(f"its answer does not end with {ANSWER} and a number")
        return dialogue(row["question"], _parts(row["answer"]))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 where the reply ends with `####` and the right number."""
        number = final_number(reply)
        return float(number is not None and number == final_number(reference(conversation)))


def final_number(text: str) -> Any:
    """The number after the last `####`, exactly; None where there is none, or something else beside it."""
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
