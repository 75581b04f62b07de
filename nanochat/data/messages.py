"""Messages in OpenAI's form, made the turns that `nanochat.data.chat_template` renders. The server and training both read by it.

A message has a `role` (system, developer, user, assistant, tool, or the older function), and `content`: a string, parts of type text,
or, beside the tool calls of an assistant, nothing. An assistant may also have the parts of the template, `tool_calls`, and a `weight`:
0 keeps it out of the training targets. A call becomes code, `add(a=1, b=2)`, and the tool's message its output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nanochat.data.chat_template import PARTS

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool", "function": "tool"}
SEPARATOR = "\n\n"  # between messages of one author
# Tools whose one argument is code or an expression; it is the call itself.
CODE_TOOLS = frozenset({"python", "code_interpreter", "calculator"})
_READ = {
    "tool": {"role", "content", "tool_call_id", "name"},
    "assistant": {"role", "content", "tool_calls", "function_call", "weight"},
}
_NOTHING: tuple[Any, ...] = (None, "", [], {})

Part = dict[str, Any]


class MessageError(ValueError):
    """Message `index` is invalid, in its `field`. The text never repeats what it holds."""

    def __init__(self, index: int, field: str, reason: str) -> None:
        super().__init__(f"message {index} {reason}")
        self.index, self.field, self.reason = index, field, reason


def to_turns(messages: Sequence[Any]) -> dict[str, Any]:
    """The conversation in `messages`, with consecutive messages of one author merged, and each tool's output behind its call.

    Raises `MessageError`; the order of users and assistants is checked by the template.
    """
    turns: list[_Turn] = []
    before = ""  # role of the previous message
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise MessageError(i, "", "is not an object")
        role = ROLES.get(message.get("role")) if isinstance(message.get("role"), str) else None
        if role is None:
            raise MessageError(i, "role", f"has no known role; expected one of {', '.join(ROLES)}")
        if role == "tool":
            if not turns or not turns[-1].calls:
                raise MessageError(i, "role", "is the output of a tool, but no call before it waits for one")
            turns[-1].answer(i, message)
        elif turns and turns[-1].role == role:
            turns[-1].add(i, message, separated=before == role)
        elif role == "system" and turns:
            raise MessageError(i, "role", "is a system message; it must come before all others")
        else:
            turns.append(_Turn(role))
            turns[-1].add(i, message, separated=False)
        before = role
    return {"messages": [turn.message() for turn in turns]}


def fields_not_read(message: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields that a message has and `to_turns` does not read. A weight that asks for a user's text is one of them."""
    role = ROLES.get(message["role"], "")
    read = _READ.get(role, {"role", "content"})
    for name, value in message.items():
        if name not in read and value not in _NOTHING and not (name == "weight" and value == 0):
            yield name
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        yield from (f"content.{name}" for name, value in part.items() if name not in ("type", "text") and value not in _NOTHING)


class _Turn:
    """The messages of one author in a row, as parts with weights."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.parts: list[Part] = []
        self.calls: list[tuple[str | None, str, Part]] = []  # id, name, and part of those that wait for an output
        self.weight = 1

    def add(self, i: int, message: Mapping[str, Any], separated: bool) -> None:
        calls = list(_calls(i, message))
        if calls and self.role != "assistant":
            raise MessageError(i, "tool_calls", "has tool calls, which only an assistant may have")
        self.weight = _weight(i, message) if self.role == "assistant" else 1
        parts = _parts(i, message, self.role, may_be_null=bool(calls))
        if separated and (parts or calls):
            parts.insert(0, {"type": "text", "text": SEPARATOR})
        self.calls = [(id, name, {"type": "python", "text": code}) for id, name, code in calls]
        self.parts += [part | {"weight": self.weight} for part in parts]
        for _, _, part in self.calls:
            part["weight"] = self.weight
            self.parts.append(part)

    def answer(self, i: int, message: Mapping[str, Any]) -> None:
        output = "".join(part["text"] for part in _parts(i, message, "tool", may_be_null=True))
        call = self._call_of(message)
        if call is None:
            raise MessageError(i, "tool_call_id", "is the output of a tool, but no call before it has its tool_call_id")
        self.calls.remove(call)
        at = next(k for k, part in enumerate(self.parts) if part is call[2])
        self.parts.insert(at + 1, {"type": "python_output", "text": output, "weight": 0})

    def _call_of(self, message: Mapping[str, Any]) -> tuple[str | None, str, Part] | None:
        """By id; by name, if the calls have no ids; else the first."""
        given, name = message.get("tool_call_id"), message.get("name")
        if given is not None and any(id is not None for id, _, _ in self.calls):
            return next((call for call in self.calls if call[0] == given), None)
        return next((call for call in self.calls if call[1] == name), self.calls[0])

    def message(self) -> dict[str, Any]:
        """The turn for the template, as plain as it can be: text alone is a string, and a weight stands where it is 0."""
        weights = {part["weight"] for part in self.parts if part["type"] != "python_output"} | {self.weight}
        texts = all(part["type"] == "text" for part in self.parts)
        out: dict[str, Any] = {"role": self.role, "content": "".join(part["text"] for part in self.parts)}
        if not texts or len(weights) > 1:
            plain = [{"type": part["type"], "text": part["text"]} for part in self.parts]
            if len(weights) > 1:
                plain = [part | {"weight": old["weight"]} for part, old in zip(plain, self.parts, strict=True)]
            out["content"] = plain
        return out if self.weight else out | {"weight": 0}


def _parts(i: int, message: Mapping[str, Any], role: str, may_be_null: bool) -> list[Part]:
    content = message.get("content")
    if content is None and may_be_null:
        return []
    if isinstance(content, str):
        # An empty text beside a call is what some clients send for none.
        return [{"type": "text", "text": content}] if content or not may_be_null else []
    if not isinstance(content, list):
        raise MessageError(i, "content", "has no content; expected a string or a list of parts")
    allowed = PARTS if role == "assistant" else ("text",)
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in allowed or not isinstance(part.get("text"), str):
            raise MessageError(i, "content", f"has a part that is not a text with the type {' or '.join(allowed)}")
    return [{"type": part["type"], "text": part["text"]} for part in content]


def _weight(i: int, message: Mapping[str, Any]) -> int:
    weight = message.get("weight")
    if weight is None:
        return 1
    if not isinstance(weight, int | float) or weight not in (0, 1):
        raise MessageError(i, "weight", "has a weight that is neither 0 nor 1")
    return int(weight)


def _calls(i: int, message: Mapping[str, Any]) -> Iterator[tuple[str | None, str, str]]:
    """Id, name and code of each call of a message."""
    given = message.get("tool_calls") or []
    if not isinstance(given, list):
        raise MessageError(i, "tool_calls", "has tool calls that are not a list")
    old = message.get("function_call")
    for call in [*given, *([{"function": old}] if old is not None else [])]:
        function = call.get("function") if isinstance(call, Mapping) and call.get("type") in (None, "function") else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise MessageError(i, "tool_calls", "has a tool call that is not a function with a name")
        id = call.get("id")
        if id is not None and not isinstance(id, str):
            raise MessageError(i, "tool_calls", "has a tool call whose id is not a string")
        yield id, name, _code(i, name, function.get("arguments"))


def _code(i: int, name: str, arguments: Any) -> str:
    """A call as Python."""
    try:
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else None
            except ValueError:
                if name in CODE_TOOLS:
                    return arguments
                raise
        if name in CODE_TOOLS and isinstance(arguments, Mapping) and len(arguments) == 1:
            (only,) = arguments.values()
            if isinstance(only, str):
                return only
        if not isinstance(arguments, Mapping | None):
            raise ValueError
        return f"{name}({', '.join(_written(arguments or {}))})"
    except ValueError:
        raise MessageError(i, "tool_calls", "has a tool call whose arguments are not a JSON object") from None
    except RecursionError:
        raise MessageError(i, "tool_calls", "has a tool call whose arguments are nested too deeply") from None


def _written(arguments: Mapping[str, Any]) -> Iterable[str]:
    if all(key.isidentifier() for key in arguments):
        return [f"{key}={value!r}" for key, value in arguments.items()]
    return [f"**{dict(arguments)!r}"]
