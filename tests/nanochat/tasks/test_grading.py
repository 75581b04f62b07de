from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks.grading import as_number, reply_text, same_number, same_text

TOKENIZER = Tokenizer([])

NUMBERS = {
    "72": 72, "72.": 72, " 72 \n": 72, "1,200": 1200, "1,234,567.50": Fraction("1234567.5"), "$18": 18, "-$5": -5, "-3": -3, "+3": 3,
    "0.50": Fraction(1, 2), "$1,000.": 1000, "007": 7, "-0": 0,
}  # fmt: skip
NO_NUMBERS = [
    "",
    ".",
    "72 clips",
    "7 2",
    "1,20",
    "12,00",
    "1,2345",
    "72..",
    "--3",
    "3-",
    "½",
    "٣",
    "1e3",
    "0x10",
    "nan",
    "inf",
    "72, 73",
    "=72",
]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read_exactly(text: str) -> None:
    assert as_number(text) == NUMBERS[text]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_one_number_is_none(text: str) -> None:
    assert as_number(text) is None
    assert not same_number(text, "72") and not same_number(text, text)


@given(st.integers(-(10**15), 10**15), st.booleans(), st.booleans())
def test_any_whole_number_is_read_however_it_is_written(value: int, commas: bool, stop: bool) -> None:
    assert as_number(f"{value:,}" if commas else f"{value}." if stop else str(value)) == value


@given(st.integers(), st.integers())
def test_only_equal_numbers_are_the_same(a: int, b: int) -> None:
    assert same_number(f"{a:,}.", str(b)) == (a == b)


@pytest.mark.parametrize(
    ("reply", "same"), [("a b", True), (" a  b.\n", True), ("a b..", False), ("ab", False), ("a b c", False), ("", False)]
)
def test_only_spaces_and_a_full_stop_may_differ(reply: str, same: bool) -> None:
    assert same_text(reply, "a b") == same


def test_nothing_is_no_answer_even_to_nothing() -> None:
    assert not same_text("", "") and not same_text(".", "")


def tokens(text: str) -> list[int]:
    """`text` in bytes, with [p … ]p around code and [o … ]o around output."""
    names = {"[p": "<|python_start|>", "]p": "<|python_end|>", "[o": "<|output_start|>", "]o": "<|output_end|>"}
    out: list[int] = []
    while text:
        if text[:2] in names:
            out.append(TOKENIZER.special_tokens[names[text[:2]]])
            text = text[2:]
        else:
            out += TOKENIZER.encode(text[0])
            text = text[1:]
    return out


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("It is [p2*3]p[o6]o6.", "It is 6."),
        ("[p1]p[o1]o[p2]p[o2]o", ""),
        ("a[pnever ends 7", "a"),
        ("a[p1]p7", "a7"),
        ("a[o7", "a"),
        ("a]pb", "a<|python_end|>b"),
        ("a[p[o1]o]pb", "ab"),
    ],
)
def test_a_reply_says_what_is_outside_of_its_tool_calls(reply: str, said: str) -> None:
    assert reply_text(TOKENIZER, tokens(reply)) == said
