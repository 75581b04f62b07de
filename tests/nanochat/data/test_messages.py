"""OpenAI's messages as turns: merged, masked, with the calls and outputs of tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanochat.data.chat_template import is_learned, render_conversation
from nanochat.data.messages import MessageError, fields_not_read, to_turns
from nanochat.data.tokenizer import Tokenizer
from tests.nanochat.data.test_chat_template import shown

TOKENIZER = Tokenizer([])


def user(content: Any = "go") -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(name: Any = "add", arguments: Any = '{"a": 1, "b": 2}', id: Any = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def output(content: Any = "3", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def rendered(*messages: dict[str, Any]) -> str:
    text = shown(*render_conversation(TOKENIZER, to_turns(messages), 10_000))
    for token, short in (("assistant_start", "A"), ("assistant_end", "/A"), ("user_start", "U"), ("user_end", "/U")):
        text = text.replace(f"<|{token}|>", f"<{short}>")
    return text.removeprefix("<|bos|>").replace("<|python_", "<|p_").replace("<|output_", "<|o_")


CALL, OUTPUT = "<|p_start|>add(a=1, b=2)<|p_end|>", "<|o_start|>3<|o_end|>"
CASES = {
    "a weight of 0 is no target": (
        [user("q"), said("WRONG", weight=0), user("again"), said("right", weight=1)],
        "<U>q</U><A>WRONG</A><U>again</U><A>⟦right</A>⟧",
    ),
    "system and developer come first": (
        [{"role": "developer", "content": [{"type": "text", "text": "be brief"}]}, {"role": "system", "content": "s"}, user(), said("ok")],
        "<U>be brief\n\ns\n\ngo</U><A>⟦ok</A>⟧",
    ),
    "two users are one": ([user("wait"), user([{"type": "text", "text": "go"}]), said("ok")], "<U>wait\n\ngo</U><A>⟦ok</A>⟧"),
    "two assistants are one": ([user(), said("a"), said("b")], "<U>go</U><A>⟦a\n\nb</A>⟧"),
    "the weights of two assistants are kept": ([user(), said("a", weight=0), said("b")], "<U>go</U><A>a⟦\n\nb</A>⟧"),
    "and those of a learned one before": ([user(), said("a"), said("b", weight=0)], "<U>go</U><A>⟦a⟧\n\nb</A>"),
    "a call and its output": (
        [user("1 + 2"), said(tool_calls=[call()]), output(tool_call_id="c1"), said("3")],
        f"<U>1 + 2</U><A>⟦{CALL}⟧{OUTPUT}⟦3</A>⟧",
    ),
    "a call beside a text": ([user(), said("I add.", tool_calls=[call()])], f"<U>go</U><A>⟦I add.{CALL}</A>⟧"),
    "a call that is not learned": (
        [user(), said("", tool_calls=[call()], weight=0), output(tool_call_id="c1"), said("3")],
        f"<U>go</U><A>{CALL}{OUTPUT}⟦3</A>⟧",
    ),
    "outputs go to their calls by id": (
        [user(), said(tool_calls=[call(), call("f", {}, "c2")]), output("4", tool_call_id="c2"), output(tool_call_id="c1")],
        f"<U>go</U><A>⟦{CALL}⟧{OUTPUT}⟦<|p_start|>f()<|p_end|>⟧<|o_start|>4<|o_end|>⟦</A>⟧",
    ),
    "or by name or order without ids": (
        [user(), said(tool_calls=[call(id=None), call("f", None, None)]), output("4", name="f"), output()],
        f"<U>go</U><A>⟦{CALL}⟧{OUTPUT}⟦<|p_start|>f()<|p_end|>⟧<|o_start|>4<|o_end|>⟦</A>⟧",
    ),
    "the older function call": (
        [user(), said(function_call={"name": "add", "arguments": '{"a": 1, "b": 2}'}), {"role": "function", "name": "add", "content": "3"}],
        f"<U>go</U><A>⟦{CALL}⟧{OUTPUT}⟦</A>⟧",
    ),
    "arguments are Python": (
        [user(), said(tool_calls=[call("a.b", json.dumps({"x": [None, True, {"k": "it's"}], "y": 1.5}))])],
        "<U>go</U><A>⟦<|p_start|>a.b(x=[None, True, {'k': \"it's\"}], y=1.5)<|p_end|></A>⟧",
    ),
    "whatever their names are": (
        [user(), said(tool_calls=[call("f", '{"a b": 1}')])],
        "<U>go</U><A>⟦<|p_start|>f(**{'a b': 1})<|p_end|></A>⟧",
    ),
    "code is the call": (
        [user(), said(tool_calls=[call("python", '{"code": "6*7"}'), call("calculator", "1+1")])],
        "<U>go</U><A>⟦<|p_start|>6*7<|p_end|><|p_start|>1+1<|p_end|></A>⟧",
    ),
    "parts of the template": (
        [user(), said([{"type": "python", "text": "1"}, {"type": "python_output", "text": "1"}, {"type": "text", "text": "1"}])],
        "<U>go</U><A>⟦<|p_start|>1<|p_end|>⟧<|o_start|>1<|o_end|>⟦1</A>⟧",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_messages_become_turns(name: str) -> None:
    messages, expected = CASES[name]
    before = json.dumps(messages)
    assert rendered(*messages) == expected
    assert json.dumps(messages) == before


def test_plain_messages_stay_as_they_are() -> None:
    messages = [{"role": "system", "content": "s"}, user("a"), said("b"), user("c"), said("")]
    assert to_turns(messages) == {"messages": messages}
    assert to_turns([user(), said("b", weight=0)])["messages"][1] == {"role": "assistant", "content": "b", "weight": 0}


DEEP = "[" * 100_000 + "]" * 100_000
WRONG: dict[str, tuple[list[Any], int, str]] = {
    "not an object": ([user(), "b"], 1, "is not an object"),
    "unknown role": ([user(), {"role": "robot", "content": "a"}], 1, "has no known role"),
    "no role": ([{"content": "a"}], 0, "has no known role"),
    "unhashable role": ([{"role": [], "content": "a"}], 0, "has no known role"),
    "late system": ([user(), {"role": "developer", "content": "a"}], 1, "must come before all others"),
    "no content": ([user(), said()], 1, "has no content"),
    "a user's null": ([user(None)], 0, "has no content"),
    "an image": ([user([{"type": "image_url", "image_url": {}}])], 0, "has a part that is not a text with the type text"),
    "a user's code": ([user([{"type": "python", "text": "1"}])], 0, "has a part"),
    "a part without text": ([user(), said([{"type": "text"}])], 1, "has a part"),
    "half a weight": ([user(), said("a", weight=0.5)], 1, "neither 0 nor 1"),
    "a weight in words": ([user(), said("a", weight="1")], 1, "neither 0 nor 1"),
    "a user's call": ([user() | {"tool_calls": [call()]}], 0, "which only an assistant may have"),
    "calls that are none": ([user(), said(tool_calls="add")], 1, "not a list"),
    "a call without a name": ([user(), said(tool_calls=[call("")])], 1, "not a function with a name"),
    "a call of another type": ([user(), said(tool_calls=[call() | {"type": "custom"}])], 1, "not a function"),
    "a call with a number for an id": ([user(), said(tool_calls=[call(id=5)])], 1, "id is not a string"),
    "arguments that are not JSON": ([user(), said(tool_calls=[call(arguments="{")])], 1, "not a JSON object"),
    "arguments without names": ([user(), said(tool_calls=[call(arguments="[1]")])], 1, "not a JSON object"),
    "deep arguments": ([user(), said(tool_calls=[call(arguments=f'{{"a": {DEEP}}}')])], 1, "nested too deeply"),
    "an output of nothing": ([user(), output()], 1, "no call before it waits"),
    "an output after the user": ([user(), said(tool_calls=[call()]), user(), output()], 3, "no call before it waits"),
    "an output of another call": ([user(), said(tool_calls=[call()]), output(tool_call_id="c9")], 2, "has its tool_call_id"),
    "two outputs": ([user(), said(tool_calls=[call()]), output(), output()], 3, "no call before it waits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_message_is_named(name: str) -> None:
    messages, index, why = WRONG[name]
    with pytest.raises(MessageError, match=why) as error:
        to_turns(messages)
    assert error.value.index == index and str(error.value).startswith(f"message {index} ") and len(str(error.value)) < 200


def test_what_is_not_read_is_known() -> None:
    message = said([{"type": "text", "text": "a", "cache_control": {"type": "x"}}], name="Ann", refusal=None, audio={"id": 1}, weight=1)
    assert list(fields_not_read(message)) == ["name", "audio", "content.cache_control"]
    assert list(fields_not_read(user() | {"weight": 0, "id": ""})) == []
    assert list(fields_not_read(user() | {"weight": 1})) == ["weight"], "a user's text is never learned"
    assert list(fields_not_read(output(name="add", tool_call_id="c1", extra=1))) == ["extra"]


def test_what_is_learned() -> None:
    turns = to_turns([user(), said("a", weight=0), user(), said("a"), said("b", weight=0), user(), said("c")])["messages"]
    assert [is_learned(turn) for turn in turns] == [False, False, False, True, False, True]
