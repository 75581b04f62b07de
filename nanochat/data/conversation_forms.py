"""Forms of conversations that people have in files, read as turns: OpenAI's messages, ShareGPT, Alpaca, prompt and completion.

What a row says and training cannot use is counted by kind, so that it can be reported: fields, turns without a reply, whole rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nanochat.data.chat_template import is_learned
from nanochat.data.messages import ROLES, MessageError, fields_not_read, to_turns

LISTS = ("messages", "conversations", "conversation")  # fields with a list of messages, the first that is there
QUESTIONS = ("instruction", "prompt", "question", "query")
CONTEXTS = ("input", "context")  # more of the question, below it; the question itself if there is no other
REPLIES = ("completion", "output", "response", "answer")
SYSTEMS = ("system", "system_prompt")
# ShareGPT's authors → roles. A call is JSON, {"name": …, "arguments": …}.
AUTHORS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "chatbot", "bing", "bard", "claude", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response", "function", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    **{role: role for role in ("system", "developer")},
}
TEXTS = ("content", "value", "text")  # fields with what a message says
LEARNED = ("train", "training", "loss")  # names that other trainers have for the weight of a reply, with true or false
DESIRED = ("label", "kto_tag")  # fields that say whether a reply is a good one
EXPECTED = "expected messages, ShareGPT's conversations, Alpaca's instruction and output, or prompt and completion"


class Read(NamedTuple):
    """A row's conversation, None if it has nothing to learn, and counts of what was left out; `fields` by name.

    Replies without text are read and not learned.
    """

    conversation: dict[str, Any] | None
    turns_left_out: int
    opening_replies: int
    empty_replies: int
    fields: Counter[str]


def read_conversation(row: Any) -> Read:
    """Reads a row of any form. Raises `ValueError` if it has none of them, or is malformed."""
    fields: Counter[str] = Counter()
    messages = _messages(row, fields)
    if messages is None:
        return Read(None, 0, 0, 0, fields)
    turns = to_turns(messages)["messages"]
    empty = [i for i, turn in enumerate(turns) if is_learned(turn) and isinstance(turn["content"], str) and not turn["content"].strip()]
    for i in empty:
        turns[i] |= {"weight": 0}
    for message in messages:
        fields.update(f"messages.{name}" for name in fields_not_read(message))
    system = turns[:1] if turns and turns[0]["role"] == "system" else []
    rest = turns[len(system) :]
    # Some data open with a reply. Models are prompted by a user first, so it is left out.
    opening = len(rest) > 0 and rest[0]["role"] == "assistant"
    rest = rest[opening:]
    end = max((i + 1 for i, turn in enumerate(rest) if is_learned(turn)), default=0)
    if not end:
        return Read(None, 0, 0, 0, fields)
    learned = {"messages": [*system, *rest[:end]]}
    return Read(learned, len(rest) - end, int(opening), sum(i < len(system) + opening + end for i in empty), fields)


def _messages(row: Any, fields: Counter[str]) -> list[Any] | None:
    """The messages of a row in OpenAI's form; None if they, or question or reply, are null. Counts the `fields` that are not read."""
    if isinstance(row, list):
        if row and all(isinstance(item, Mapping) and not {"role", "from"} & item.keys() for item in row):
            raise ValueError("it is an array of rows, as .json files have; call it .json")
        return _listed(row)
    if not isinstance(row, Mapping):
        raise ValueError(f"it is not an object; {EXPECTED}")
    read = {name for name in DESIRED if isinstance(row.get(name), bool)}
    if any(not row[name] for name in read):
        return None

    def first(names: Sequence[str]) -> Any:
        name = next((name for name in names if row.get(name) is not None), None)
        read.update([name] if name else [])
        return row[name] if name else None

    listed = first(LISTS)
    if listed is not None:
        if not isinstance(listed, list) or not listed:
            raise ValueError("a conversation must have a list of messages, at least one")
        messages = _listed(listed)
    else:
        messages = _asked(row, first)
    system = first(SYSTEMS)
    if system is not None and system != "" and messages is not None:
        messages = [{"role": "system", "content": system}, *messages]
    fields.update(name for name, value in row.items() if name not in read and value not in (None, "", [], {}))
    return messages


def _asked(row: Mapping[str, Any], first: Any) -> list[Any] | None:
    """Messages of a question and its reply, each a text or, as trl has them, a list of messages."""
    if not {*QUESTIONS, *CONTEXTS} & row.keys() or not {*REPLIES} & row.keys():
        if {*LISTS} & row.keys():
            return None
        names = ", ".join(map(str, row)) or "nothing"
        raise ValueError(f"it has no conversation among its fields ({names[:200]}); {EXPECTED}")
    question, more, reply = first(QUESTIONS), first(CONTEXTS), first(REPLIES)
    if question is None or (question == "" and more):
        question, more = more, None
    if question is None or reply is None:
        return None
    if isinstance(question, str) and isinstance(more, str) and more:
        question = f"{question}\n\n{more}"
    elif more not in (None, ""):
        raise ValueError("its question and what is below it must be texts")
    asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
    replied = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
    if not isinstance(asked, list) or not isinstance(replied, list):
        raise ValueError("its question and its reply must each be a text or a list of messages")
    # Only the reply is asked for: what the assistant says in the prompt is not.
    before = [message | {"weight": 0} if message.get("role") == "assistant" else message for message in _listed(asked)]
    return _history(first(("history",))) + before + [_message(len(asked) + i, message) for i, message in enumerate(replied)]


def _history(pairs: Any) -> list[Any]:
    """Messages of earlier questions and replies, pairs of texts."""
    if pairs is None:
        return []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("its history must be a list of pairs of texts")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def _listed(messages: list[Any]) -> list[Any]:
    """The messages in OpenAI's form, without systems that say nothing."""
    converted = (_message(i, message) for i, message in enumerate(messages))
    return [message for message in converted if message.get("role") != "system" or message.get("content") not in (None, "")]


def _message(i: int, message: Any) -> Any:
    """A message in OpenAI's form. ShareGPT's has `from` and `value`; either may have the names of the other, and authors in any case."""
    if not isinstance(message, Mapping):
        raise MessageError(i, "", "is not an object")
    said = "role" if message.get("role") is not None else "from"
    text = next((name for name in TEXTS if message.get(name) is not None), TEXTS[0])
    author, content = message.get(said), message.get(text)
    role = None
    if isinstance(author, str):
        role = author if author in ROLES else AUTHORS.get(author.strip().lower())
    if role is None and said == "from" in message:
        raise MessageError(i, "from", f"is from nobody known; expected one of {', '.join(AUTHORS)}")
    rest = {name: value for name, value in message.items() if name not in (said, text, "role", TEXTS[0])}
    marks = [name for name in LEARNED if isinstance(rest.get(name), bool)]
    if role in ("assistant", "call") and marks and rest.get("weight") is None:
        rest["weight"] = int(min(map(rest.pop, marks)))
    if role != "call":
        if content is None and role == "assistant" and not rest.get("tool_calls") and rest.get("function_call") is None:
            content = ""
        if isinstance(content, Mapping) and role in ("tool", "function"):
            content = json.dumps(content, ensure_ascii=False)
        return rest | {"role": role or author, "content": content}
    try:
        calls = json.loads(content) if isinstance(content, str) else content
        if not isinstance(calls, Mapping | list):
            raise ValueError
    except ValueError:
        raise MessageError(i, text, "is a call that is not JSON") from None
    except RecursionError:
        raise MessageError(i, text, "is a call that is nested too deeply") from None
    return rest | {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": call} for call in (calls if isinstance(calls, list) else [calls])],
    }
