"""Forms of conversations: each that is usual is read, and what is not learned from it is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanochat.data.conversation_forms import read_conversation

ASKED, REPLIED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
PAIR = [ASKED, REPLIED]
CALL = {"name": "add", "arguments": {"a": 1}}


def called(output: str) -> dict[str, Any]:
    """The assistant's message that has called `CALL` and replied."""
    texts = {"python": "add(a=1)", "python_output": output, "text": "a"}
    return {"role": "assistant", "content": [{"type": kind, "text": text} for kind, text in texts.items()]}


FORMS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "OpenAI's": ({"messages": [SYSTEM, *PAIR]}, [SYSTEM, *PAIR]),
    "a bare list": (PAIR, PAIR),
    "ShareGPT's": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, PAIR),
    "ShareGPT's with a system": (
        {"system": "s", "conversations": [{"from": "Human", "value": "q"}, {"from": "GPT", "value": "a", "weight": 1}]},
        [SYSTEM, *PAIR],
    ),
    "roles under the other name": ({"conversation": PAIR}, PAIR),
    "authors under the other name": ({"messages": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}, PAIR),
    "ShareGPT's calls": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "a"},
            ]
        },
        [ASKED, called("2")],
    ),
    "Alpaca's": ({"instruction": "q", "input": "", "output": "a"}, PAIR),
    "Alpaca's with an input": ({"instruction": "do", "input": "x", "output": "a"}, [{"role": "user", "content": "do\n\nx"}, REPLIED]),
    "Alpaca's with a history": (
        {"instruction": "q", "output": "a", "history": [["b", "c"]], "system": "s"},
        [SYSTEM, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}, *PAIR],
    ),
    "Dolly's": ({"instruction": "do", "context": "x", "response": "a"}, [{"role": "user", "content": "do\n\nx"}, REPLIED]),
    "prompt and completion": ({"prompt": "q", "completion": "a"}, PAIR),
    "prompt and response": ({"prompt": "q", "response": "a"}, PAIR),
    "question and answer": ({"question": "q", "answer": "a"}, PAIR),
    "input and output": ({"input": "q", "output": "a"}, PAIR),
    "prompt and completion of messages": (
        {"prompt": [SYSTEM, ASKED, {"role": "assistant", "content": "b"}, ASKED], "completion": [REPLIED]},
        [SYSTEM, ASKED, {"role": "assistant", "content": "b", "weight": 0}, *PAIR],
    ),
    "roles and authors in any case": ({"messages": [{"role": "User", "content": "q"}, {"role": "ASSISTANT", "content": "a"}]}, PAIR),
    "authors as roles": ({"messages": [{"role": "human", "content": "q"}, {"role": "model", "content": "a"}]}, PAIR),
    "authors with content": ({"conversations": [{"from": "human", "content": "q"}, {"from": "gpt", "content": "a"}]}, PAIR),
    "roles with a value or a text": ({"messages": [{"role": "user", "value": "q"}, {"role": "assistant", "text": "a"}]}, PAIR),
    "calls and outputs that are objects": (
        [ASKED, {"from": "function_call", "value": CALL}, {"role": "tool", "content": {"sum": 2}}, REPLIED],
        [ASKED, called('{"sum": 2}')],
    ),
    "a system that says nothing": ({"messages": [SYSTEM | {"content": None}, *PAIR]}, PAIR),
    "a system of no letters": ({"system": "", "messages": [SYSTEM | {"content": ""}, *PAIR]}, PAIR),
    "an empty instruction": ({"instruction": "", "input": "q", "output": "a"}, PAIR),
    "replies that other trainers leave out": (
        [ASKED, REPLIED | {"train": False}, ASKED, REPLIED | {"loss": False, "train": False}, ASKED, REPLIED | {"training": True}],
        [ASKED, REPLIED | {"weight": 0}, ASKED, REPLIED | {"weight": 0}, *PAIR],
    ),
    "a good reply": ({"prompt": "q", "completion": "a", "label": True}, PAIR),
    "chat programs' authors": ([{"from": "human", "value": "q"}, {"from": "ai", "value": "a"}], PAIR),
    "a parquet file's nulls": ({"messages": [m | {"weight": None, "tool_calls": None} for m in PAIR], "prompt": None}, PAIR),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_read_whole(name: str) -> None:
    row, expected = FORMS[name]
    read = read_conversation(row)
    assert read.conversation == {"messages": expected}
    assert (read.turns_left_out, read.opening_replies, read.empty_replies, read.fields) == (0, 0, 0, {})


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_a_reply_without_text_is_not_learned(text: str | None) -> None:
    empty = REPLIED | {"content": text}
    read = read_conversation({"messages": [ASKED, empty, ASKED, REPLIED]})
    assert read.conversation == {"messages": [ASKED, empty | {"content": text or "", "weight": 0}, *PAIR]} and read.empty_replies == 1
    assert read_conversation({"messages": [ASKED, empty]}).conversation is None
    assert read_conversation({"messages": [*PAIR, ASKED, empty]})[1:4] == (2, 0, 0), "it is left out as a turn"
    assert read_conversation({"instruction": "q", "output": text}).conversation is None


def test_what_is_left_out_is_counted() -> None:
    opening = {"role": "assistant", "content": "Hello!"}
    read = read_conversation({"messages": [SYSTEM, opening, ASKED, REPLIED, ASKED, {**REPLIED, "weight": 0}]})
    assert read.conversation == {"messages": [SYSTEM, *PAIR]}
    assert (read.turns_left_out, read.opening_replies) == (2, 1)
    read = read_conversation({"messages": [ASKED | {"name": "Ann"}, REPLIED], "prompt": "q", "tools": [{}], "n": None, "tags": []})
    assert read.fields == {"messages.name": 1, "prompt": 1, "tools": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED]},
        {"messages": [SYSTEM, REPLIED]},
        {"messages": [ASKED, {**REPLIED, "weight": 0}]},
        {"messages": None},
        {"prompt": "q", "completion": None},
        {"instruction": None, "output": "a"},
        {"prompt": "q", "completion": "a", "label": False},
        {"messages": PAIR, "kto_tag": False},
    ],
)
def test_what_has_nothing_to_learn_is_no_conversation(row: Any) -> None:
    assert read_conversation(row).conversation is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (3, "it is not an object; expected messages"),
        ({"text": "a", "id": 1}, r"no conversation among its fields \(text, id\); expected messages, ShareGPT's"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "no conversation among its fields"),
        ({"messages": []}, "must have a list of messages, at least one"),
        ({"messages": "hi"}, "must have a list of messages"),
        ([3], "message 0 is not an object"),
        ({"conversations": [{"from": "nobody", "value": "a"}]}, "message 0 is from nobody known; expected one of human"),
        ({"conversations": [{"from": "function_call", "value": "no"}]}, "message 0 is a call that is not JSON"),
        ({"conversations": [{"from": "function_call", "value": '"add"'}]}, "message 0 is a call that is not JSON"),
        ({"conversations": [{"from": "function_call", "value": "[" * 100_000}]}, "message 0 is a call that is nested too deeply"),
        ({"conversations": [{"from": "human"}]}, "message 0 has no content"),
        ({"messages": [ASKED | {"role": "nobody"}]}, "message 0 has no known role"),
        ({"messages": [ASKED | {"role": 3}]}, "message 0 has no known role"),
        ({"messages": [ASKED | {"content": {"text": "q"}}, REPLIED]}, "message 0 has no content"),
        ({"prompt": 3, "completion": "a"}, "must each be a text or a list of messages"),
        ({"prompt": "q", "completion": {"a": 1}}, "must each be a text or a list of messages"),
        ({"instruction": "q", "input": ["x"], "output": "a"}, "must be texts"),
        ({"instruction": "q", "output": "a", "history": ["b"]}, "its history must be a list of pairs"),
    ],
)
def test_what_has_no_known_form_is_refused(row: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_conversation(row)
