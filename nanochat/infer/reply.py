"""Reply as text: turns tokens into pieces of text, code that is run and its output, and ends at a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from nanochat.data.tokenizer import Tokenizer

PieceType = Literal["text", "python", "python_output"]

# Kind of the piece after each of these tokens.
BOUNDARIES: dict[str, PieceType] = {
    "<|python_start|>": "python",
    "<|python_end|>": "text",
    "<|output_start|>": "python_output",
    "<|output_end|>": "text",
}
# A turn ends with its end token, or when the model begins another turn or document.
_STOP_TOKENS = ("<|assistant_end|>", "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>")


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end the assistant's turn, the usual one first."""
    return tuple(tokenizer.special_tokens[name] for name in _STOP_TOKENS)


class Piece(NamedTuple):
    """A piece of a reply. The kinds are those of `nanochat.data.chat_template`."""

    kind: PieceType
    text: str


class Reply:
    """Turns tokens into pieces; bytes that are not UTF-8 become U+FFFD. With `stops`, text ends before the first of them.

    Text that may be the beginning of a stop string is held back; `stopped` is set once one has come. Only text is searched, not the
    input and output of tools.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._boundaries = {tokenizer.special_tokens[name]: kind for name, kind in BOUNDARIES.items()}
        self._tokenizer = tokenizer
        self.kind: PieceType = "text"  # of what comes next
        self.characters = 0  # so far, those held back included
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held: list[Piece] = []
        self.stopped = False

    def feed(self, token: int) -> list[Piece]:
        """The pieces that are complete with `token`, which is not a stop token."""
        if self.stopped:
            return []
        if token not in self._boundaries:
            return self._release(Piece(self.kind, self._decoder.decode(self._tokenizer.decode_bytes([token]))))
        pieces = self._release(Piece(self.kind, self._rest()))
        self.kind = self._boundaries[token]
        return pieces

    def close(self) -> list[Piece]:
        """The pieces that were held back, once there are no more tokens."""
        if self.stopped:
            return []
        pieces = self._release(Piece(self.kind, self._rest()))
        rest, self._held = self._held, []
        return pieces + rest

    def _rest(self) -> str:
        """The rest of a character that never became complete."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

    def _release(self, new: Piece) -> list[Piece]:
        """Adds `new` to what is held back, and releases everything before a possible stop string."""
        if new.text:
            self._held.append(new)
            self.characters += len(new.text)
        text = "".join(piece.text for piece in self._held if piece.kind == "text")
        # The first to be complete counts, so that the split into tokens does not matter.
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            pieces, self._held = _split(self._held, min(found)[1])[0], []
            return pieces
        pieces, self._held = _split(self._held, len(text) - _beginning(text, self._stops))
        return pieces


def _beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of one of `stops`."""
    longest = min(len(text), max((len(stop) - 1 for stop in stops), default=0))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)


def _split(pieces: Sequence[Piece], characters: int) -> tuple[list[Piece], list[Piece]]:
    """`pieces` up to `characters` characters of text, and the rest."""
    for i, piece in enumerate(pieces):
        if piece.kind != "text":
            continue
        if len(piece.text) > characters:
            cut = [Piece("text", piece.text[:characters])] if characters else []
            return [*pieces[:i], *cut], [Piece("text", piece.text[characters:]), *pieces[i + 1 :]]
        characters -= len(piece.text)
    return list(pieces), []


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """`pieces` with neighbours of one kind merged."""
    out: list[Piece] = []
    for piece in pieces:
        if out and out[-1].kind == piece.kind:
            out[-1] = Piece(piece.kind, out[-1].text + piece.text)
        else:
            out.append(piece)
    return out
