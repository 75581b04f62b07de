"""Messages of a request as the prompt that the model continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nanochat.data.chat_template import render_conversation, render_prompt
from nanochat.data.messages import MessageError, to_turns
from nanochat.data.tokenizer import Tokenizer
from nanochat.serve.http.api.schema import Message
from nanochat.serve.http.errors import ApiError

ASSISTANT = ("assistant", "tool", "function")
SYSTEM = ("system", "developer")
# A function takes code if this is the name of its only text parameter.
CODE_PARAMETERS = {"code", "expression", "python", "source", "script"}


def new_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages after the last of the assistant's and the outputs of its tools: those that a session does not hold yet."""
    said = [i for i, message in enumerate(messages) if message.role in ASSISTANT]
    return messages[said[-1] + 1 :] if said else messages


def to_conversation(messages: Sequence[Message]) -> dict[str, Any]:
    """The conversation that `nanochat.data.chat_template` renders, by `nanochat.data.messages`.

    A system message after others or without a user's behind it is part of the user's. Raises `ApiError` if the format does not allow
    the conversation.
    """
    given = [_as_trained(message.model_dump()) for message in messages]
    leading = next((i for i, message in enumerate(given) if message["role"] not in SYSTEM), len(given))
    if leading == len(given) or given[leading]["role"] != "user":
        leading = 0
    for message in given[leading:]:
        message["role"] = "user" if message["role"] in SYSTEM else message["role"]
    try:
        conversation = to_turns(given)
    except MessageError as error:
        raise ApiError(400, str(error), f"messages.{error.index}.{error.field}") from None
    if next(turn["role"] for turn in conversation["messages"] if turn["role"] != "system") != "user":
        raise ApiError(400, "the first message after the system's must be the user's", "messages")
    return conversation


def _as_trained(message: dict[str, Any]) -> dict[str, Any]:
    """A message with text or calls, of which those that are code are called as in training."""
    calls = message["tool_calls"] or []
    if message["role"] == "assistant" and not calls and message["function_call"] is None:
        message["content"] = message["content"] or ""
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and _is_code(function.get("arguments")):
            calls[i] = {**call, "function": {**function, "name": "python"}}
    return message


def _is_code(arguments: Any) -> bool:
    try:
        values = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and len(values) == 1 and set(values) <= CODE_PARAMETERS


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message], first: bool = True) -> list[int]:
    """The tokens of `messages`, to be continued by the assistant: the last message if that is its own, or a new one.

    Without `first` they follow others, in a session, and the last must be the user's.
    """
    if not first and (not messages or messages[-1].role in ASSISTANT):
        raise ApiError(400, "in a session the last message must be the user's", "messages")
    conversation = to_conversation(messages)
    if conversation["messages"][-1]["role"] == "user":
        return render_prompt(tokenizer, conversation, first)
    # Without <|assistant_end|>.
    return render_conversation(tokenizer, conversation, 2**62)[0][:-1]
