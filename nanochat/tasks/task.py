"""Task: a sequence of conversations, and the grading of replies.

A conversation has the form that `nanochat.data.chat_template` renders. Its last message is the assistant's reference answer. In a
categorical task it also has `letters`, the possible answers. Other keys are the task's own, for grading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

from nanochat.data.chat_template import render_conversation
from nanochat.data.tokenizer import Tokenizer

TaskType = Literal["categorical", "generative", "chat"]
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Conversation = dict[str, Any]
FINGERPRINT_EXAMPLES = 64


class Task:
    """Conversations `task[0]` … `task[len(task) - 1]`, always the same ones.

    `kind` is `categorical` (the reply is the most likely of a few letters), `generative` (a text that `grade` scores) or `chat`
    (not graded). An `endless` task has an example at every index; its length is that of an epoch. `reply_tokens` is the largest
    length of a reply.
    """

    name: str
    kind: TaskType
    endless = False
    reply_tokens = 256
    notice = ""  # what of the data is left out, in one line

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Conversation:
        """Example `index`. Raises `IndexError` if there is none."""
        raise NotImplementedError

    def grade(self, conversation: Conversation, reply: str) -> float:
        """Score of `reply` as the last turn of `conversation`, 0 … 1; 1 is correct.

        `reply` is the text of the assistant's turn without its tool calls. Raises `ValueError` for a task of kind `chat`.
        """
        if self.kind == "chat":
            raise ValueError(f"{self.name} cannot be graded")
        return float(reply.strip() == reference(conversation).strip())

    def grade_all(self, conversations: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """Scores of several replies; see `grade`."""
        return [self.grade(conversation, reply) for conversation, reply in zip(conversations, replies, strict=True)]

    def chance(self, conversation: Conversation) -> float:
        """Expected score of guessing: 1 / (number of letters), or 0 for free text."""
        return 1 / len(conversation["letters"]) if self.kind == "categorical" else 0.0

    def check_grading(self) -> None:
        """Raises `UserError` if this machine cannot grade replies."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the name, the length and examples spread over the task."""
        shown = min(len(self), FINGERPRINT_EXAMPLES)
        examples = [self[i * len(self) // shown] for i in range(shown)]
        return digest(json.dumps([self.name, len(self), examples], sort_keys=True, default=str)).hex()

    def _check_index(self, index: int) -> None:
        if index < 0 or (index >= len(self) and not self.endless):
            raise IndexError(f"{self.name} has no example {index}")


def dialogue(question: str, answer: str | list[dict[str, str]], **more: Any) -> Conversation:
    """Conversation of one question and its answer, a text or parts; `more` are the task's own keys."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def with_tool(code: str, output: str, text: str) -> list[dict[str, str]]:
    """Answer that runs `code`, gets `output` and continues with `text`."""
    return [{"type": "python", "text": code}, {"type": "python_output", "text": output}, {"type": "text", "text": text}]


def reference(conversation: Conversation) -> str:
    """Text of the reference answer, without its tool calls."""
    content = conversation["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def check_conversation(conversation: Any) -> None:
    """Raises `ValueError` if `conversation` is malformed or does not end with the assistant."""
    render_conversation(_byte_tokenizer(), conversation, 1)
    if conversation["messages"][-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")


def digest(text: str) -> bytes:
    """8 bytes of BLAKE2b of a text, which may hold lone surrogates."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@cache
def _byte_tokenizer() -> Tokenizer:
    return Tokenizer([])
