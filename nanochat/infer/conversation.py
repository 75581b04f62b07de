"""Conversations with a model: text in, the reply out in pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from nanochat.common import UserError
from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece, Reply, joined, stop_tokens
from nanochat.infer.sampling import Sampling


class ChatSession(Protocol):
    """A conversation that continues with each text."""

    def say(self, text: str) -> Iterator[Piece]:
        """The reply to `text`. Raises `UserError` if the text is invalid.

        If the iteration is stopped early, the conversation holds the reply up to there.
        """


@dataclass
class Conversation:
    """A `ChatSession` that keeps messages; a base model keeps nothing and continues each text on its own.

    `warn` is called if the conversation is longer than what the model was trained on.
    """

    engine: Engine
    tokenizer: Tokenizer
    sampling: Sampling
    base: bool
    warn: Callable[[str], None] = lambda text: None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> Iterator[Piece]:
        """See `ChatSession`."""
        check_text(text)
        if self.base:
            yield Piece("text", text)
            yield from self._pieces(self.tokenizer.encode(text, bos=True))
        else:
            self.messages.append({"role": "user", "content": text})
            yield from self._reply()

    def again(self) -> Iterator[Piece]:
        """Replaces the last reply by another one."""
        if self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        self.sampling.seed += 1
        yield from self._reply()

    def _reply(self) -> Iterator[Piece]:
        prompt = render_prompt(self.tokenizer, {"messages": self.messages})
        longest = self.engine.model.config.max_seq_len
        if len(prompt) >= longest:
            self.warn(f"the conversation is longer than the {longest} tokens that the model was trained on; /clear starts a new one")
        content: list[Piece] = []
        try:
            for piece in self._pieces(prompt):
                content.append(piece)
                yield piece
        finally:  # a reply that was stopped is kept, too
            self.messages.append({"role": "assistant", "content": [{"type": piece.kind, "text": piece.text} for piece in joined(content)]})

    def _pieces(self, prompt: list[int]) -> Iterator[Piece]:
        stop = ending(self.tokenizer, self.base)
        tokens = (token for (token,) in self.engine.stream([prompt], self.sampling, stop))
        return reply_pieces(self.tokenizer, tokens, stop)


def check_text(text: str) -> None:
    """Raises `UserError` if `text` is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not UTF-8 (character {error.start + 1}); type or pass it in UTF-8") from error


def ending(tokenizer: Tokenizer, base: bool) -> tuple[int, ...]:
    """The stop tokens of a reply; of a base model, the beginning of another document."""
    return (tokenizer.bos_id,) if base else stop_tokens(tokenizer)


def reply_pieces(tokenizer: Tokenizer, tokens: Iterable[int], stop: Collection[int]) -> Iterator[Piece]:
    """The pieces of a reply as its `tokens` come; those of `stop` are left out."""
    reply = Reply(tokenizer)
    for token in tokens:
        if token not in stop:
            yield from reply.feed(token)
    yield from reply.close()
