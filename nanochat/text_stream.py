"""Text as it is generated: a character may span tokens, and is shown when its last byte has come."""

from __future__ import annotations

import codecs

from nanochat.data.tokenizer import Tokenizer


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
