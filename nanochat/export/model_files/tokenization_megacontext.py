"""Tokenizer of a MegaContext language model for transformers: text that spells a special token is text.

Chats are the exception: in what the chat template writes, special tokens are special. What the messages say stays text there, too:
it is escaped before the template sees it, and a normalizer takes the escapes out once the special tokens are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers.normalizers import Replace, Sequence
from transformers import PreTrainedTokenizerFast

ESCAPE = "␛"  # printable, so that Python's `repr` of an argument of a tool call leaves it as it is
OPENING = "<|"  # of each special token


class RenderedChat(str):
    """Text of a chat, of which the tokenizer still knows which special tokens are the template's."""

    def __new__(cls, escaped: str) -> RenderedChat:
        """The chat whose messages are escaped in `escaped`."""
        chat = super().__new__(cls, escaped.replace(f"{ESCAPE}1", "").replace(f"{ESCAPE}0", ESCAPE))
        chat.escaped = escaped
        return chat


class MegaContextTokenizer(PreTrainedTokenizerFast):
    """Byte-level BPE. The ids of `tokenizer(text)` begin with `<|bos|>`, unless `add_special_tokens` is False."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> MegaContextTokenizer:
        """See `PreTrainedTokenizerFast`."""
        # Not in `__init__`: transformers takes a class that has one for a tokenizer without a tokenizer.json.
        tokenizer = super().from_pretrained(*args, **kwargs)
        tokenizer.split_special_tokens = True
        return tokenizer

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        """Ids of a chat or of several, as in `PreTrainedTokenizerFast`. Without `tokenize` a text that this tokenizer encodes alike."""
        with self._chats():
            rendered = super().apply_chat_template(_escaped(conversation), *args, tokenize=tokenize, **kwargs)
        if tokenize:
            return rendered
        return RenderedChat(rendered) if isinstance(rendered, str) else [RenderedChat(text) for text in rendered]

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        texts = text if isinstance(text, list) else [text]
        if not texts or not all(isinstance(one, RenderedChat) for one in texts):
            return super()._encode_plus(text, *args, **kwargs)
        escaped = [one.escaped for one in texts]
        with self._chats():
            # The template has written `<|bos|>`.
            kwargs |= {"add_special_tokens": False, "split_special_tokens": False}
            return super()._encode_plus(escaped if isinstance(text, list) else escaped[0], *args, **kwargs)

    @contextmanager
    def _chats(self) -> Iterator[None]:
        """Special tokens are special, and escapes are taken out."""
        backend, before = self.backend_tokenizer, self.split_special_tokens
        self.split_special_tokens = False
        backend.normalizer = Sequence([Replace(f"{ESCAPE}1", ""), Replace(f"{ESCAPE}0", ESCAPE)])
        try:
            yield
        finally:
            self.split_special_tokens = before
            backend.normalizer = None


def _escaped(value: Any) -> Any:
    """Messages, or chats, with every text in them escaped, so that none spells a special token."""
    if isinstance(value, str):
        return value.replace(ESCAPE, f"{ESCAPE}0").replace(OPENING, f"<{ESCAPE}1|")
    if isinstance(value, dict):
        return {_escaped(name): _escaped(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(content) for content in value]
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"invalid value of type {type(value).__name__} in a message; expected what JSON has")
