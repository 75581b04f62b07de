"""A task: conversations by number, and how a reply is judged.

A conversation is what `nanochat.data.chat_template` renders. Its last message is the assistant's: the reference answer. One of a
categorical task also has `letters`, the answers to choose among. Other keys are the task's own, for grading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

from nanochat.data.chat_template import render_conversation
from nanochat.data.tokenizer import Tokenizer

Kind = Literal["categorical", "generative", "chat"]
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Conversation = dict[str, Any]
FINGERPRINT_EXAMPLES = 64


class Task:
    """Conversations `task[0]` … `task[len(task) - 1]`, always the same ones.

    `kind` says how a reply is got and judged: `categorical`, the likeliest of a few letters; `generative`, a text that
    `grade` judges; `chat`, nothing to judge. An `endless` task has an example at every number; its length is how many
    make a pass over it. `reply_tokens` is the room that a reply needs at most.
    """

    name: str
    kind: Kind
    endless = False
    reply_tokens = 256

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Conversation:
        """Example `index`. Raises `IndexError` where there is none."""
        raise NotImplementedError

    def grade(self, conversation: Conversation, reply: str) -> float:
        """What `reply` is worth as the last turn of `conversation`, 0 … 1; 1 is right.

        `reply` is the text of the assistant's turn without its tool calls. Raises `ValueError` for a task of kind `chat`.
        """
        if self.kind == "chat":
            raise ValueError(f"{self.name} has nothing to grade a reply by")
        return float(reply.strip() == reference(conversation).strip())

    def grade_all(self, conversations: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """`grade` of each pair."""
        return [self.grade(conversation, reply) for conversation, reply in zip(conversations, replies, strict=True)]

    def chance(self, conversation: Conversation) -> float:
        """What guessing is worth: 1 / (number of letters), or 0 for free text."""
        return 1 / len(conversation["letters"]) if self.kind == "categorical" else 0.0

    def check_grading(self) -> None:
        """Raises `UserError` where this machine cannot grade replies."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the name, the length and examples spread over the task."""
        shown = min(len(self), FINGERPRINT_EXAMPLES)
        examples = [self[i * len(self) // shown] for i in range(shown)]
        content = json.dumps([self.name, len(self), examples], sort_keys=True, default=str)
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def _check_index(self, index: int) -> None:
        if index < 0 or (index >= len(self) and not self.endless):
            raise IndexError(f"{self.name} has no example {index}")


def dialogue(question: str, answer: str | list[dict[str, str]], **more: Any) -> Conversation:
    """A conversation of one question and its answer, a text or parts; `more` are keys of the task's own."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def with_tool(code: str, output: str, text: str) -> list[dict[str, str]]:
    """An answer that runs `code`, reads `output` and says `text`."""
    return [{"type": "python", "text": code}, {"type": "python_output", "text": output}, {"type": "text", "text": text}]


def reference(conversation: Conversation) -> str:
    """The text of the reference answer, without its tool calls."""
    content = conversation["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def check_conversation(conversation: Any) -> None:
    """Raises `ValueError` where `conversation` is not one to learn from: malformed, or it does not end with the assistant."""
    render_conversation(_byte_tokenizer(), conversation, 1)
    if conversation["messages"][-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")


@cache
def _byte_tokenizer() -> Tokenizer:
    return Tokenizer([])
