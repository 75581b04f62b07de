"""Conversations: what the model is given, what is remembered of what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.conversation import Conversation
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from tests.helpers.tiny_model import tiny_model, tiny_tokenizer


class Parrot:
    """Stands for a model that says what it was told to: an engine whose tokens are a script."""

    def __init__(self, tokenizer: Tokenizer, *replies: str) -> None:
        self.model, self.prompts = tiny_model(vocab_size=tokenizer.vocab_size), []
        self.tokenizer, self.replies = tokenizer, list(replies)

    def stream(self, prompts: list[list[int]], sampling: Sampling, stop: tuple[int, ...]) -> Iterator[tuple[int]]:
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        pieces = re.split(r"(<\|\w+\|>)", self.replies.pop(0))
        for piece in pieces:
            yield from (
                (token,) for token in ([self.tokenizer.special_tokens[piece]] if piece[:2] == "<|" else self.tokenizer.encode(piece))
            )
        yield (stop[0],)


def joined(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_pieces_are_whole_characters_and_join_to_the_text() -> None:
    model, tokenizer, sampling = tiny_model(vocab_size=300), tiny_tokenizer(), Sampling(temperature=0, max_tokens=50)
    (completion,) = Engine(model).generate([tokenizer.encode("a", bos=True)], sampling, (tokenizer.bos_id,))
    assert joined(Conversation(Engine(model), tokenizer, sampling, base=True).say("a")) == "a" + tokenizer.decode(completion.said)


def test_a_chat_remembers_its_turns_with_their_tool_calls() -> None:
    tokenizer = tiny_tokenizer()
    called = "I count: <|python_start|>2*3<|python_end|><|output_start|>6<|output_end|>six"
    engine = Parrot(tokenizer, called, "Bye.", "See you.")
    warnings = []
    chat = Conversation(engine, tokenizer, Sampling(), base=False, warn=warnings.append)
    assert joined(chat.say("How much?")) == "I count: 2*36six"
    assert joined(chat.say("Thanks")) == "Bye."
    turns = "<|bos|><|user_start|>{}<|user_end|><|assistant_start|>"
    assert engine.prompts[0] == turns.format("How much?")
    assert engine.prompts[1] == engine.prompts[0] + called + "<|assistant_end|>" + turns.format("Thanks").removeprefix("<|bos|>")
    assert joined(chat.again()) == "See you." and engine.prompts[2] == engine.prompts[1]
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "user", "assistant"]
    assert chat.messages[-1]["content"] == [{"type": "text", "text": "See you."}]
    assert len(warnings) == 2 and "longer than the 24 tokens" in warnings[0]  # the first turn still fits


def test_a_reply_that_is_stopped_stays_in_the_conversation() -> None:
    tokenizer = tiny_tokenizer()
    chat = Conversation(Parrot(tokenizer, "one two three", "four"), tokenizer, Sampling(), base=False)
    reply = chat.say("count")
    for _ in range(9):
        next(reply)
    reply.close()
    assert chat.messages[-1]["role"] == "assistant" and chat.messages[-1]["content"][0]["text"].startswith("one")
    list(chat.say("go on"))


def test_what_is_not_utf8_is_refused() -> None:
    chat = Conversation(Parrot(tiny_tokenizer()), tiny_tokenizer(), Sampling(), base=False)
    with pytest.raises(UserError, match=r"not UTF-8 \(character 2\)"):
        list(chat.say("a\udcff"))
    assert chat.messages == []
