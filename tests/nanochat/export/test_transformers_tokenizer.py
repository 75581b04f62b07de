"""An exported tokenizer in transformers itself: our ids, and chats as we render them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from nanochat.data.chat_template import render_conversation, render_prompt
from nanochat.data.tokenizer import SPECIAL_TOKENS
from tests.helpers.exported import export, load
from tests.helpers.odd_strings import odd_strings
from tests.helpers.tiny_model import tiny_model, tiny_tokenizer

OURS = tiny_tokenizer(330)
SAID = {"role": "assistant", "content": "4"}
NASTY = "<|assistant_end|> ␛ ␛0␛1| <|user_start|>a <␛1|bos|> <|<|bos|>|> 東京"
FOUR = {"role": "user", "content": "What is 2 + 2?"}
CODE = [{"type": "text", "text": "It is "}, {"type": "python", "text": "2 + 2"}, {"type": "python_output", "text": "4"}]
CHATS: dict[str, list[dict[str, Any]]] = {
    "one message": [FOUR],
    "one turn": [FOUR, {"role": "assistant", "content": "4"}],
    "many turns": [
        FOUR,
        {"role": "assistant", "content": " 4\n"},
        {"role": "user", "content": "  Sure? "},
        {"role": "assistant", "content": ""},
    ],
    "system": [{"role": "system", "content": "Be  short.\n"}, FOUR, {"role": "assistant", "content": "4"}, FOUR],
    "parts": [FOUR, {"role": "assistant", "content": [*CODE, {"type": "text", "text": ", so 4."}]}, FOUR],
    "special tokens in messages": [
        {"role": "system", "content": NASTY},
        {"role": "user", "content": NASTY},
        {"role": "assistant", "content": [{"type": kind, "text": NASTY} for kind in ("text", "python", "python_output")]},
    ],
}


def call(code: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "calculator", "arguments": {"expression": code}}} | fields


# In OpenAI's form, and the same as our format has it.
READ_AS = {
    "developer and consecutive messages": (
        [{"role": "developer", "content": "Be short."}, {"role": "system", "content": "Be kind."}, FOUR, FOUR,
         {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "Four"}],
        [{"role": "user", "content": "Be short.\n\nBe kind.\n\nWhat is 2 + 2?\n\nWhat is 2 + 2?"},
         {"role": "assistant", "content": "4\n\nFour"}],
    ),
    "parts of a user": (
        [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]}, SAID],
        [FOUR, SAID],
    ),
    "call": (
        [FOUR, {"role": "assistant", "content": "It is ", "tool_calls": [call("2 + 2")]}, {"role": "tool", "content": "4"},
         {"role": "assistant", "content": ", so 4."}],
        [FOUR, {"role": "assistant", "content": [*CODE, {"type": "text", "text": ", so 4."}]}],
    ),
    "two calls with ids": (
        [FOUR, {"role": "assistant", "tool_calls": [call("1", id="a"), call("2", id="b")]},
         {"role": "tool", "tool_call_id": "b", "content": "two"}, {"role": "tool", "tool_call_id": "a", "content": "one"}],
        [FOUR, {"role": "assistant", "content": [{"type": "python", "text": "1"}, {"type": "python_output", "text": "one"},
                                                 {"type": "python", "text": "2"}, {"type": "python_output", "text": "two"}]}],
    ),
    "function with arguments": (
        [FOUR, {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "look_up", "arguments": {"q": "it's <|bos|> ␛", "n": 2, "of": [True, None]}}}]}],
        [FOUR, {"role": "assistant", "content": [{"type": "python", "text": """look_up(q="it's <|bos|> ␛", n=2, of=[True, None])"""}]}],
    ),
    "arguments that are no names of Python": (
        [FOUR, {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "f", "arguments": {"a b": 1, "<|bos|>": "␛", "c": [None]}}}]}],
        [FOUR, {"role": "assistant", "content": [{"type": "python", "text": "f(**{'a b': 1, '<|bos|>': '␛', 'c': [None]})"}]}],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(hugging_face: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("chat"), tiny_model(vocab_size=OURS.vocab_size), OURS, "sft")


@pytest.fixture(scope="module")
def theirs(folder: Path):
    return load(folder).tokenizer


def test_ids_are_ours_on_odd_strings(theirs) -> None:
    for text in odd_strings(1, 1000):
        assert theirs(text, add_special_tokens=False)["input_ids"] == OURS.encode(text), ascii(text)
        assert theirs(text)["input_ids"] == OURS.encode(text, bos=True)
    ids = list(range(OURS.vocab_size))
    assert theirs.decode(ids) == OURS.decode(ids)
    assert (theirs.bos_token_id, theirs.convert_tokens_to_ids([*SPECIAL_TOKENS])) == (OURS.bos_id, [*OURS.special_tokens.values()])


def test_a_batch_is_padded_on_the_left(theirs) -> None:
    batch = theirs(["a", "abc d"], padding=True)
    assert batch["input_ids"][0][-2:] == OURS.encode("a", bos=True) and batch["attention_mask"][0][:2] == [0, 0]


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_chats_are_rendered_as_ours(theirs, chat: list[dict[str, Any]]) -> None:
    conversation = {"messages": chat}
    assert theirs.apply_chat_template(chat, return_dict=True)["input_ids"] == render_conversation(OURS, conversation, 10_000)[0]
    prompt = theirs.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    assert prompt[0].tolist() == render_prompt(OURS, conversation)


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_a_chat_rendered_as_text_is_encoded_alike(theirs, chat: list[dict[str, Any]]) -> None:
    """As libraries do that render first and encode later, one by one or as a batch, with or without `add_special_tokens`."""
    ids, _ = render_conversation(OURS, {"messages": chat}, 10_000)
    text = theirs.apply_chat_template(chat, tokenize=False)
    assert text == OURS.decode(ids)
    assert theirs(text)["input_ids"] == theirs.encode(text, add_special_tokens=False) == ids
    assert theirs(theirs.apply_chat_template([chat, chat], tokenize=False))["input_ids"] == [ids, ids]
    assert theirs(str(text) + "", add_special_tokens=False)["input_ids"] == OURS.encode(str(text))  # text from elsewhere is text


@pytest.mark.parametrize(("chat", "same"), READ_AS.values(), ids=READ_AS)
def test_messages_in_openais_form_are_read(theirs, chat: list[dict[str, Any]], same: list[dict[str, Any]]) -> None:
    assert theirs.apply_chat_template(chat, return_dict=True)["input_ids"] == render_conversation(OURS, {"messages": same}, 10_000)[0]
    prompt = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == render_prompt(OURS, {"messages": same})


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"role": "assistant", "content": "4"}], "the first message after the system's must be the user's"),
        ([{"role": "system", "content": "4"}], "there is no message of the user's"),
        ([FOUR, {"role": "system", "content": "4"}], "a system message must come before all others"),
        ([FOUR, {"role": "nobody", "content": "4"}], "invalid role"),
        ([{"role": "user", "content": CODE}], "only an assistant's may have other parts"),
        ([{"role": "user", "content": 4}], "expected a text or a list of parts"),
        ([FOUR, {"role": "assistant", "content": [{"type": "image", "text": ""}]}], "invalid part of an assistant message"),
        ([FOUR, {"role": "tool", "content": "4"}], "no call before it waits for it"),
        ([FOUR, {"role": "assistant", "content": "4"}, {"role": "tool", "content": "4"}], "no call before it waits for it"),
        (
            [FOUR, {"role": "assistant", "tool_calls": [call("1", id="a"), call("2", id="b")]}]
            + [{"role": "tool", "tool_call_id": "b", "content": "2"}, {"role": "tool", "content": "1"}],
            "must have a tool_call_id, or none",
        ),
        ([FOUR, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}], "expected an object, not a text"),
    ],
)
def test_what_the_format_does_not_have_is_refused(theirs, chat: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        theirs.apply_chat_template(chat)
    with pytest.raises(TemplateError, match="leave them out"):
        theirs.apply_chat_template([FOUR], tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(TemplateError, match="put them into a message"):
        theirs.apply_chat_template([FOUR], documents=[{"title": "a", "text": "b"}])
    with pytest.raises(TypeError, match="expected what JSON has"):
        theirs.apply_chat_template([{"role": "user", "content": b"4"}])
    assert theirs("<|bos|>", add_special_tokens=False)["input_ids"] == OURS.encode("<|bos|>")  # as before


def test_without_our_code_special_tokens_in_text_are_special(folder: Path) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(folder)
    assert plain("a b")["input_ids"] == OURS.encode("a b", bos=True)
    assert plain("<|bos|>", add_special_tokens=False)["input_ids"] == [OURS.bos_id]
    for name in ("many turns", "system", "parts"):
        ids, _ = render_conversation(OURS, {"messages": CHATS[name]}, 10_000)
        assert plain.apply_chat_template(CHATS[name], return_dict=True)["input_ids"] == ids
