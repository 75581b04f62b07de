"""The splitter does what the pattern does in the module `regex`, on every code point and on every kind of text."""

from __future__ import annotations

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rustbpe
from nanochat.data.tokenizer import PATTERN

PIECES = regex.compile(PATTERN)
ALL_CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]

# Characters at which the pattern branches: of each class in one to four bytes, apostrophes, all that matches s when case is ignored.
TRICKY = "aZé字𝒳1²٣𝟘 \t\r\n\x0b\x85\xa0\u2028\u3000'’!.-_\0\x7f¡€🎉\u0301\u200dſsSdDmMtTlLvVeErRKﬆ"


def test_every_code_point_is_in_the_class_that_regex_puts_it_in() -> None:
    text = "".join([f"x{c}1{c}\n" for c in ALL_CHARACTERS])
    ours, expected = rustbpe.split(text), PIECES.findall(text)
    assert len(ours) == len(expected)
    assert all(map(str.__eq__, ours, expected))


def test_contractions_ignore_case_as_regex_does() -> None:
    text = "".join([f"a'{c} b'{c}l'l{c}'v{c}'{c}e" for c in ALL_CHARACTERS[:0x3000]])
    assert rustbpe.split(text) == PIECES.findall(text)


@settings(max_examples=1500, deadline=None)
@given(st.text(st.sampled_from(TRICKY), max_size=40))
@example("")
@example("  \n \n   x")
@example("it's 'twas I'LL '")
def test_pieces_are_those_of_regex_at_every_branch(text: str) -> None:
    assert rustbpe.split(text) == PIECES.findall(text)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200))
def test_pieces_are_those_of_regex_on_any_text(text: str) -> None:
    pieces = rustbpe.split(text)
    assert pieces == PIECES.findall(text)
    assert "".join(pieces) == text
