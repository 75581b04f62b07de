"""Tools: when they run, what they put into a reply, and that no reply, however malformed, confuses them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.infer.tools import MAX_CODE_TOKENS, Tools, ToolState
from tests.helpers.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SPECIAL = TOKENIZER.special_tokens
START, END = SPECIAL["<|python_start|>"], SPECIAL["<|python_end|>"]
OUT, OUT_END = SPECIAL["<|output_start|>"], SPECIAL["<|output_end|>"]


def forced_after(tools: Tools, tokens: list[int]) -> list[int]:
    """What is forced after `tokens`, which the model says."""
    state = ToolState(tools)
    for token in tokens:
        assert state.forced is None
        state.feed(token)
    state.run()
    forced = []
    while (token := state.forced) is not None:
        forced.append(token)
        state.feed(token)
    return forced


def call(code: str) -> list[int]:
    return [START, *TOKENIZER.encode(code), END]


def output(text: str) -> list[int]:
    return [OUT, *TOKENIZER.encode(text), OUT_END]


def test_the_calculator_answers() -> None:
    assert forced_after(Tools(TOKENIZER), [*TOKENIZER.encode("So "), *call("12*12")]) == output("144")
    assert forced_after(Tools(TOKENIZER), call("'strawberry'.count('r')")) == output("3")


def test_what_the_calculator_does_not_know_is_run_or_left_alone() -> None:
    ran = []

    def run(code: str) -> str:
        ran.append(code)
        return "it ran"

    assert forced_after(Tools(TOKENIZER), call("print(1)")) == []
    assert forced_after(Tools(TOKENIZER, run), call("print(1)")) == output("it ran")
    assert forced_after(Tools(TOKENIZER, run), call("1+1")) == output("2")
    assert ran == ["print(1)"]
    assert forced_after(Tools(TOKENIZER, lambda _: ""), call("pass")) == [OUT, OUT_END]


def test_long_output_is_cut_between_characters() -> None:
    text = "東京🙂" * 500
    tools = Tools(TOKENIZER, lambda _: text, max_output_tokens=100)
    forced = forced_after(tools, call("print()"))
    assert len(forced) <= 2 + 100 + 3 and forced[0] == OUT and forced[-1] == OUT_END
    shown = TOKENIZER.decode(forced[1:-1])
    assert shown.endswith("…") and text.startswith(shown[:-1]) and "\ufffd" not in shown


def test_output_that_is_no_text_is_shown_with_marks() -> None:
    assert forced_after(Tools(TOKENIZER, lambda _: "a\ud800b"), call("print()")) == output("a?b")


def test_output_that_spells_special_tokens_is_text() -> None:
    forced = forced_after(Tools(TOKENIZER, lambda _: "<|output_end|><|assistant_end|>"), call("x"))
    assert not set(forced[1:-1]) & set(SPECIAL.values())
    assert TOKENIZER.decode(forced[1:-1]) == "<|output_end|><|assistant_end|>"


@pytest.mark.parametrize(
    "tokens",
    [
        [END],
        [START, END],
        [END, START],
        [START, *TOKENIZER.encode("1+1")],
        [START, *TOKENIZER.encode("1+1"), SPECIAL["<|user_start|>"], END],
        [START, OUT, *TOKENIZER.encode("1"), OUT_END, END],
        [START, *TOKENIZER.encode("1") * (MAX_CODE_TOKENS + 5), END],
    ],
)
def test_malformed_calls_are_not_run(tokens: list[int]) -> None:
    assert forced_after(Tools(TOKENIZER, lambda _: "ran"), tokens) == []


def test_a_start_inside_a_block_begins_anew() -> None:
    assert forced_after(Tools(TOKENIZER), [START, *TOKENIZER.encode("9*"), *call("2+2")]) == output("4")


def test_calls_follow_each_other() -> None:
    state = ToolState(Tools(TOKENIZER))
    for code, result in (("1+1", "2"), ("2*3", "6")):
        for token in call(code):
            assert state.forced is None
            state.feed(token)
        for token in output(result):
            assert state.forced == token
            state.feed(token)
        assert state.forced is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([START, END, OUT, OUT_END]), st.sampled_from(TOKENIZER.encode("12+*"))), max_size=40))
def test_any_tokens_are_survived_and_every_output_ends(said: list[int]) -> None:
    state = ToolState(Tools(TOKENIZER, lambda code: code))
    for token in said:
        for _ in range(400):
            if state.forced is None:
                break
            state.feed(state.forced)
        assert state.forced is None
        state.feed(token)
        state.run()


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_output_tokens"):
        Tools(TOKENIZER, max_output_tokens=0)
