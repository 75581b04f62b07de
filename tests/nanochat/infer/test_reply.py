"""From tokens to pieces of text: characters, tools, stop strings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.reply import Piece, Reply, joined
from tests.helpers.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def read(tokens: list[int], stops: list[str]) -> tuple[list[list[Piece]], Reply]:
    reply = Reply(TOKENIZER, stops)
    out = [reply.feed(token) for token in tokens]
    return [*out, reply.close()], reply


def said(pieces: list[list[Piece]], kind: str = "text") -> str:
    return "".join(piece.text for step in pieces for piece in step if piece.kind == kind)


def first_complete(text: str, stops: list[str]) -> str:
    """What is left of `text` when it is read letter by letter until it ends with a stop string: the plain way to say it."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(st.text("abé", max_size=30), st.lists(st.text("abé", min_size=1, max_size=5), max_size=4), st.booleans())
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], in_bytes: bool) -> None:
    """However the text is cut into tokens, also within a character."""
    tokens = list(text.encode()) if in_bytes else TOKENIZER.encode(text)
    pieces, reply = read(tokens, stops)
    assert said(pieces) == first_complete(text, stops)
    assert reply.stopped == (first_complete(text, stops) != text)
    assert said(read(tokens, [])[0]) == text


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=5))
def test_nothing_is_held_back_without_need(text: str, stop: str) -> None:
    """After every token all is out but what may be the beginning of the stop string."""
    reply, out = Reply(TOKENIZER, [stop]), ""
    for end, token in enumerate(text.encode(), 1):
        out += "".join(piece.text for piece in reply.feed(token))
        if reply.stopped:
            return
        held = text[len(out) : end]
        assert text[:end] == out + held and stop.startswith(held) and len(held) < len(stop)


def test_code_and_its_output_are_told_apart() -> None:
    special = TOKENIZER.special_tokens
    tokens = [
        *b"12",
        special["<|python_start|>"],
        *b"3*4 12",
        special["<|python_end|>"],
        special["<|output_start|>"],
        *b"12",
        special["<|output_end|>"],
        *b"3!",
    ]
    whole = [Piece("text", "12"), Piece("python", "3*4 12"), Piece("python_output", "12"), Piece("text", "3!")]
    pieces, reply = read(tokens, [])
    assert joined([piece for step in pieces for piece in step]) == whole
    # Stop strings are searched in the text alone, across what is between; until it is known, nothing overtakes it.
    pieces, reply = read(tokens, ["24"])
    assert joined([piece for step in pieces for piece in step]) == whole and not reply.stopped
    pieces, reply = read(tokens, ["23"])
    assert joined([piece for step in pieces for piece in step]) == [Piece("text", "1")] and reply.stopped
    assert said(read(tokens, ["12"])[0]) == ""


def test_half_a_character_at_the_end_of_a_part_is_shown_as_such() -> None:
    tokens = [0xC3, TOKENIZER.special_tokens["<|python_start|>"], 0xC3]
    pieces, _ = read(tokens, [])
    assert joined([piece for step in pieces for piece in step]) == [Piece("text", "\ufffd"), Piece("python", "\ufffd")]


def test_whole_characters_only() -> None:
    text = "naïve 東京 🙂 end"
    pieces, _ = read(list(text.encode()), [])  # each byte a token
    assert said(pieces) == text
    assert [] in pieces and all("\ufffd" not in piece.text for step in pieces for piece in step)
    for broken in ([0xE6, 0x9D], [0xFF, 0x41], [0xE6, 0x41, 0x9D]):
        assert said(read(broken, [])[0]) == TOKENIZER.decode(broken)
