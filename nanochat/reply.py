"""The assistant's next turn as text, as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nanochat.chat_format import render_prompt
from nanochat.engine import Engine
from nanochat.sampling import Sampling
from nanochat.text_stream import TextStream
from nanochat.tokenizer import Tokenizer


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end the assistant's turn."""
    return tokenizer.special_tokens["<|assistant_end|>"], tokenizer.bos_id


def reply_stream(engine: Engine, tokenizer: Tokenizer, conversation: Mapping[str, Any], sampling: Sampling) -> Iterator[str]:
    """The assistant's next turn of `conversation` in pieces of whole characters.

    Tool calls and their outputs are text between the tokens' names, like `<|python_start|>2*3<|python_end|>`. Raises
    `ValueError` for a malformed conversation (see `chat_format`).
    """
    prompt, stop, text = render_prompt(tokenizer, conversation), stop_tokens(tokenizer), TextStream(tokenizer)
    for (token,) in engine.stream([prompt], sampling, stop):
        if token not in stop:
            yield text.feed(token)
    yield text.close()
