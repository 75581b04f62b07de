"""Chat template: conversations as token ids, with a mask of the tokens that the assistant has to learn.

A conversation is `{"messages": [{"role": …, "content": …}, …]}`: an optional system message, then user and assistant in
turns. Content is a string; an assistant's may also be a list of parts `{"type": "text" | "python" | "python_output",
"text": …}`. With `"weight": 0` an assistant's message, or a part of it, is not learned. As ids:

    <|bos|> <|user_start|>…<|user_end|> <|assistant_start|>…<|assistant_end|> <|user_start|>…

with `<|python_start|>…<|python_end|>` around code that the assistant runs and `<|output_start|>…<|output_end|>` around its
output. Text that spells one of these tokens stays text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nanochat.data.tokenizer import Tokenizer

# Part type → (token before, token after, True if the assistant has to learn it). It writes code, but not its output.
PARTS = {
    "text": (None, None, True),
    "python": ("<|python_start|>", "<|python_end|>", True),
    "python_output": ("<|output_start|>", "<|output_end|>", False),
}
# The token that must follow a special token at the end for the turns to be whole.
_FOLLOWING = {
    "<|user_start|>": "<|user_end|>",
    "<|user_end|>": "<|assistant_start|>",
    "<|assistant_start|>": "<|assistant_end|>",
    "<|python_start|>": "<|python_end|>",
    "<|python_end|>": "<|assistant_end|>",
    "<|output_start|>": "<|output_end|>",
    "<|output_end|>": "<|assistant_end|>",
}


class Rendered(NamedTuple):
    """A conversation as ids and a mask of the learned ones, and the number of its last messages that were left out."""

    ids: list[int]
    mask: list[int]
    messages_cut: int


def render_whole_turns(tokenizer: Tokenizer, conversation: Mapping[str, Any], max_tokens: int) -> Rendered:
    """`render_conversation`, but cut after the last turn of the assistant that fits whole; no ids if none does."""
    rendering = _Rendering(tokenizer)
    rendering.special("<|bos|>", 0)
    turns, kept, end = _turns(conversation), 0, 0
    for i, message in enumerate(turns):
        rendering.turn(message)
        if len(rendering.ids) > max_tokens:
            break
        if message["role"] == "assistant":
            kept, end = i + 1, len(rendering.ids)
    return Rendered(rendering.ids[:end], rendering.mask[:end], len(turns) - kept)


def render_conversation(tokenizer: Tokenizer, conversation: Mapping[str, Any], max_tokens: int) -> tuple[list[int], list[int]]:
    """Ids of `conversation` and as many 0s and 1s, both cut to `max_tokens`.

    The mask is 1 on the assistant's text, its code with the tokens around it, and `<|assistant_end|>`; it is 0 on the
    user's turns, on the output of code, on `<|assistant_start|>` and on what has a weight of 0. Raises `ValueError` for a malformed
    conversation.
    """
    if max_tokens < 1:
        raise ValueError(f"invalid max_tokens {max_tokens}: must be at least 1")
    rendering = _Rendering(tokenizer)
    rendering.special("<|bos|>", 0)
    for message in _turns(conversation):
        rendering.turn(message)
    return rendering.ids[:max_tokens], rendering.mask[:max_tokens]


def render_prompt(tokenizer: Tokenizer, conversation: Mapping[str, Any], first: bool = True) -> list[int]:
    """Prompt for the assistant's next turn: ids that end with `<|assistant_start|>`.

    If the last message is the assistant's, it is the expected answer and left out. Without `first`, these turns follow others
    and have no `<|bos|>`. Raises `ValueError` for a malformed conversation.
    """
    turns = _turns(conversation)
    if turns[-1]["role"] == "assistant":
        turns.pop()
    rendering = _Rendering(tokenizer)
    if first:
        rendering.special("<|bos|>", 0)
    for message in turns:
        rendering.turn(message)
    rendering.special("<|assistant_start|>", 0)
    return rendering.ids


def render_around(tokenizer: Tokenizer, heading: str, answer: str, first: bool = True) -> tuple[list[int], list[int]]:
    """Ids before and after a text, too long for a message, that the user gives below `heading` and the assistant answers with `answer`.

    `first`: see `render_prompt`.
    """
    before, behind = _Rendering(tokenizer), _Rendering(tokenizer)
    if first:
        before.special("<|bos|>", 0)
    before.special("<|user_start|>", 0)
    before.text(heading, 0)
    behind.special("<|user_end|>", 0)
    behind.turn({"role": "assistant", "content": answer})
    return before.ids, behind.ids


def is_learned(message: Mapping[str, Any]) -> bool:
    """True if some of a message is to be learned."""
    if message["role"] != "assistant":
        return False
    weight, content = message.get("weight", 1), message["content"]
    return bool(weight) or (isinstance(content, list) and any(PARTS[part["type"]][2] and part.get("weight", weight) for part in content))


def closing(tokenizer: Tokenizer, newest: int | None) -> list[int]:
    """Ids that close the open turns of a conversation whose last special token is `newest` (None if it has none)."""
    names = {tokenizer.special_tokens[name]: following for name, following in _FOLLOWING.items()}
    ids: list[int] = []
    while newest in names:
        newest = tokenizer.special_tokens[names[newest]]
        ids.append(newest)
    return ids


class _Rendering:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.mask: list[int] = []

    def special(self, name: str, learn: int) -> None:
        self._add([self.tokenizer.special_tokens[name]], learn)

    def text(self, text: str, learn: int) -> None:
        self._add(self.tokenizer.encode(text), learn)

    def turn(self, message: Mapping[str, Any]) -> None:
        role, content = message["role"], message["content"]
        learn = int(role == "assistant" and message.get("weight", 1))
        self.special(f"<|{role}_start|>", 0)
        if isinstance(content, str):
            self.text(content, learn)
        else:
            for part in content:
                before, after, learnt = PARTS[part["type"]]
                learnt = int(learnt and part.get("weight", learn))
                if before is not None:
                    self.special(before, learnt)
                self.text(part["text"], learnt)
                if after is not None:
                    self.special(after, learnt)
        self.special(f"<|{role}_end|>", learn)

    def _add(self, ids: list[int], learn: int) -> None:
        self.ids += ids
        self.mask += [learn] * len(ids)


def _turns(conversation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The checked messages, with the system message merged into the first user message."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("a conversation must have a list of messages, at least one")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"message {i} must have a role and content")
        _check_weight(message, f"message {i}")
        _check_content(message["content"], f"message {i}", parts_allowed=message["role"] == "assistant")
    turns = list(messages)
    if turns[0]["role"] == "system":
        system = turns.pop(0)
        if not turns or turns[0]["role"] != "user":
            raise ValueError("a user message must follow the system message")
        turns[0] = {"role": "user", "content": f"{system['content']}\n\n{turns[0]['content']}"}
    first = len(messages) - len(turns)
    for i, message in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            raise ValueError(f"message {first + i} has the role {message['role']!r}; expected {expected!r}")
    return turns


def _check_content(content: Any, where: str, parts_allowed: bool) -> None:
    if isinstance(content, str):
        return
    if not parts_allowed or not isinstance(content, list):
        raise ValueError(f"the content of {where} must be a string{' or a list of parts' if parts_allowed else ''}")
    for i, part in enumerate(content):
        known = isinstance(part, Mapping) and isinstance(part.get("type"), str) and part["type"] in PARTS
        if not known or not isinstance(part.get("text"), str):
            raise ValueError(f"part {i} of {where} must have a text and one of the types {', '.join(PARTS)}")
        _check_weight(part, f"part {i} of {where}")


def _check_weight(value: Mapping[str, Any], where: str) -> None:
    if value.get("weight", 1) not in (0, 1):
        raise ValueError(f"the weight of {where} must be 0 or 1")
