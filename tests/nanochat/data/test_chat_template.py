from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.chat_template import closing, render_around, render_conversation, render_prompt
from nanochat.data.tokenizer import Tokenizer

TOKENIZER = Tokenizer([])  # each byte is an id, so that every token of a rendering can be read


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def conversation(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def shown(ids: list[int], mask: list[int]) -> str:
    """The rendering as text, with what is to be learnt in ⟦⟧."""
    out, inside = "", 0
    for i, learn in zip(ids, mask, strict=True):
        out += {(0, 1): "⟦", (1, 0): "⟧"}.get((inside, learn), "") + TOKENIZER.decode([i])
        inside = learn
    return out + "⟧" * inside


GOLDEN = {
    "two turns": (
        conversation(user("Hi"), assistant("Hello."), user("Bye"), assistant("See you.")),
        "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>⟦Hello.<|assistant_end|>⟧"
        "<|user_start|>Bye<|user_end|><|assistant_start|>⟦See you.<|assistant_end|>⟧",
    ),
    "system message": (
        conversation({"role": "system", "content": "Be brief."}, user("Hi"), assistant("Yo")),
        "<|bos|><|user_start|>Be brief.\n\nHi<|user_end|><|assistant_start|>⟦Yo<|assistant_end|>⟧",
    ),
    "tool call": (
        conversation(
            user("6*7?"),
            assistant(
                [
                    {"type": "text", "text": "Let me see. "},
                    {"type": "python", "text": "6*7"},
                    {"type": "python_output", "text": "42"},
                    {"type": "text", "text": "It is 42."},
                ]
            ),
        ),
        "<|bos|><|user_start|>6*7?<|user_end|><|assistant_start|>⟦Let me see. <|python_start|>6*7<|python_end|>⟧"
        "<|output_start|>42<|output_end|>⟦It is 42.<|assistant_end|>⟧",
    ),
    "user last": (conversation(user("Hi")), "<|bos|><|user_start|>Hi<|user_end|>"),
    "empty texts": (conversation(user(""), assistant([])), "<|bos|><|user_start|><|user_end|><|assistant_start|>⟦<|assistant_end|>⟧"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_renderings(name: str) -> None:
    talk, expected = GOLDEN[name]
    assert shown(*render_conversation(TOKENIZER, talk, 1000)) == expected


def test_the_prompt_asks_for_the_next_turn() -> None:
    before = conversation(user("Hi"), assistant("Hello."), user("Bye"))
    expected = (
        "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>Hello.<|assistant_end|><|user_start|>Bye<|user_end|><|assistant_start|>"
    )
    assert TOKENIZER.decode(render_prompt(TOKENIZER, before)) == expected
    answered = conversation(*before["messages"], assistant("the answer"))
    assert TOKENIZER.decode(render_prompt(TOKENIZER, answered)) == expected


def test_a_rendering_is_cut_to_max_tokens() -> None:
    talk = GOLDEN["tool call"][0]
    ids, mask = render_conversation(TOKENIZER, talk, 1000)
    for max_tokens in range(1, len(ids) + 2):
        assert render_conversation(TOKENIZER, talk, max_tokens) == (ids[:max_tokens], mask[:max_tokens])
    with pytest.raises(ValueError, match="invalid max_tokens 0"):
        render_conversation(TOKENIZER, talk, 0)


def test_the_conversation_is_left_as_it_is() -> None:
    talk = conversation({"role": "system", "content": "S"}, user("U"), assistant("A"))
    render_conversation(TOKENIZER, talk, 100)
    render_prompt(TOKENIZER, talk)
    assert talk == conversation({"role": "system", "content": "S"}, user("U"), assistant("A"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from("ab<|>_sertpyhonidu"), max_size=20) | st.sampled_from(list(TOKENIZER.special_tokens)),
        min_size=1,
        max_size=6,
    )
)
def test_text_cannot_forge_a_turn(texts: list[str]) -> None:
    messages = [user(text) if i % 2 == 0 else assistant([{"type": "python_output", "text": text}]) for i, text in enumerate(texts)]
    ids, mask = render_conversation(TOKENIZER, conversation(*messages), 10_000)
    special = [i for i in ids if i >= 256]
    answers = len(texts) // 2
    assert len(special) == 1 + 2 * (len(texts) - answers) + 4 * answers
    assert [i for i, learn in zip(ids, mask, strict=True) if learn] == [TOKENIZER.special_tokens["<|assistant_end|>"]] * answers


MALFORMED: dict[str, tuple[Any, str]] = {
    "not a mapping": ([user("a")], "list of messages"),
    "no messages": ({}, "list of messages"),
    "empty": (conversation(), "list of messages"),
    "message is text": ({"messages": ["hi"]}, "message 0 must have a role"),
    "no content": ({"messages": [{"role": "user"}]}, "message 0 must have a role and content"),
    "assistant first": (conversation(assistant("a")), "message 0 has the role 'assistant'; expected 'user'"),
    "user twice": (conversation(user("a"), user("b")), "message 1 has the role 'user'; expected 'assistant'"),
    "unknown role": (conversation(user("a"), {"role": "tool", "content": "b"}), "message 1 has the role 'tool'"),
    "unhashable role": (conversation({"role": [], "content": "b"}), "message 0 has the role"),
    "system alone": (conversation({"role": "system", "content": "s"}), "must follow the system message"),
    "system before assistant": (conversation({"role": "system", "content": "s"}, assistant("a")), "must follow the system message"),
    "late system": (conversation(user("a"), assistant("b"), {"role": "system", "content": "s"}), "message 2 has the role 'system'"),
    "wrong after system": (conversation({"role": "system", "content": "s"}, user("a"), user("b")), "message 2 has the role"),
    "user with parts": (conversation(user([{"type": "text", "text": "a"}])), "message 0 must be a string"),
    "content is none": (conversation(user("a"), assistant(None)), "message 1 must be a string or a list of parts"),
    "unknown part": (conversation(user("a"), assistant([{"type": "image", "text": "b"}])), "part 0 of message 1"),
    "part without text": (conversation(user("a"), assistant([{"type": "text"}])), "part 0 of message 1"),
    "half a weight": (conversation(user("a"), assistant("b") | {"weight": 0.5}), "the weight of message 1 must be 0 or 1"),
    "a part's weight": (
        conversation(user("a"), assistant([{"type": "text", "text": "b", "weight": "0"}])),
        "the weight of part 0 of message 1",
    ),
    "unhashable part": (conversation(user("a"), assistant([{"type": [], "text": "b"}])), "part 0 of message 1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_conversations_are_refused(name: str) -> None:
    talk, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message):
        render_conversation(TOKENIZER, talk, 100)
    with pytest.raises(ValueError, match=message):
        render_prompt(TOKENIZER, talk)


def test_later_turns_have_no_beginning() -> None:
    first, more = (TOKENIZER.decode(render_prompt(TOKENIZER, conversation(user("Hi")), first)) for first in (True, False))
    assert first == "<|bos|>" + more == "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>"


@pytest.mark.parametrize("first", [True, False])
def test_a_text_between_two_halves_is_a_turn_and_its_answer(first: bool) -> None:
    before, behind = render_around(TOKENIZER, "a.txt\n", "Read.", first)
    text = TOKENIZER.decode([*before, *TOKENIZER.encode("x<|user_end|>"), *behind])
    whole, _ = render_conversation(TOKENIZER, conversation(user("a.txt\nx<|user_end|>"), assistant("Read.")), 1000)
    assert text == TOKENIZER.decode(whole[0 if first else 1 :])
    assert [*before, *TOKENIZER.encode("x<|user_end|>"), *behind] == whole[0 if first else 1 :]


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, ""),
        ("<|bos|>", ""),
        ("<|user_start|>", "<|user_end|><|assistant_start|><|assistant_end|>"),
        ("<|user_end|>", "<|assistant_start|><|assistant_end|>"),
        ("<|assistant_start|>", "<|assistant_end|>"),
        ("<|python_start|>", "<|python_end|><|assistant_end|>"),
        ("<|python_end|>", "<|assistant_end|>"),
        ("<|output_start|>", "<|output_end|><|assistant_end|>"),
        ("<|output_end|>", "<|assistant_end|>"),
        ("<|assistant_end|>", ""),
    ],
)
def test_what_closes_a_turn(newest: str | None, expected: str) -> None:
    token = None if newest is None else TOKENIZER.special_tokens[newest]
    assert TOKENIZER.decode(closing(TOKENIZER, token)) == expected
