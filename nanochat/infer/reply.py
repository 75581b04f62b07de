"""What one row's tokens say: text, code that is run, what came out of it; and where a stop string ends it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from nanochat.data.tokenizer import Tokenizer

Kind = Literal["text", "python", "python_output"]

# What the kind is after each of these tokens.
BOUNDARIES: dict[str, Kind] = {
    "<|python_start|>": "python",
    "<|python_end|>": "text",
    "<|output_start|>": "python_output",
    "<|output_end|>": "text",
}
# A turn is over with its end, and where the model begins another one or another document.
_STOP_TOKENS = ("<|assistant_end|>", "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>")


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end the assistant's turn, the usual one first."""
    return tuple(tokenizer.special_tokens[name] for name in _STOP_TOKENS)


class Piece(NamedTuple):
    """Some characters of a reply. The kinds are those of `nanochat.data.chat_template`."""

    kind: Kind
    text: str


class Reply:
    """Turns tokens into pieces. With `stops`, text ends before the first place where one of them is spelled.

    Nothing is given out that may be the beginning of a stop string; `stopped` says that one has come. Only text is
    searched, not what goes into a tool and comes out of it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._boundaries = {tokenizer.special_tokens[name]: kind for name, kind in BOUNDARIES.items()}
        self._stream, self._kind = TextStream(tokenizer), "text"
        self._stops = tuple(stops)
        self._held: list[Piece] = []
        self.stopped = False

    def feed(self, token: int) -> list[Piece]:
        """The pieces that can be given out after `token`, which is not a stop token."""
        if self.stopped:
            return []
        if token not in self._boundaries:
            return self._release(Piece(self._kind, self._stream.feed(token)))
        pieces = self._release(Piece(self._kind, self._stream.close()))
        self._kind = self._boundaries[token]
        return pieces

    def close(self) -> list[Piece]:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return []
        pieces = self._release(Piece(self._kind, self._stream.close()))
        rest, self._held = self._held, []
        return pieces + rest

    def _release(self, new: Piece) -> list[Piece]:
        """Adds `new` to what is held, and gives out all before a character that may belong to a stop string."""
        if new.text:
            self._held.append(new)
        text = "".join(piece.text for piece in self._held if piece.kind == "text")
        # The first to be complete counts: so it does not matter how the text was cut into tokens.
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            pieces, self._held = _split(self._held, min(found)[1])[0], []
            return pieces
        pieces, self._held = _split(self._held, len(text) - _beginning(text, self._stops))
        return pieces


def _beginning(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters of `text` may be the beginning of one of `stops`."""
    longest = min(len(text), max((len(stop) - 1 for stop in stops), default=0))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)


def _split(pieces: Sequence[Piece], characters: int) -> tuple[list[Piece], list[Piece]]:
    """`pieces` up to so many characters of text, and from there."""
    for i, piece in enumerate(pieces):
        if piece.kind != "text":
            continue
        if len(piece.text) > characters:
            cut = [Piece("text", piece.text[:characters])] if characters else []
            return [*pieces[:i], *cut], [Piece("text", piece.text[characters:]), *pieces[i + 1 :]]
        characters -= len(piece.text)
    return list(pieces), []


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece."""
    out: list[Piece] = []
    for piece in pieces:
        if out and out[-1].kind == piece.kind:
            out[-1] = Piece(piece.kind, out[-1].text + piece.text)
        else:
            out.append(piece)
    return out


class TextStream:
    """Turns tokens into text piece by piece; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes, which may be empty. Joined, the pieces are what `Tokenizer.decode` gives."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def close(self) -> str:
        """What is left of a character that never became whole. The stream can then begin anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
