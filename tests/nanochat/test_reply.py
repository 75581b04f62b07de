"""The assistant's next turn as text, on a real tokenizer and a tiny model."""

from __future__ import annotations

import pytest

from nanochat.chat_format import render_prompt
from nanochat.engine import Engine
from nanochat.reply import reply_stream, stop_tokens
from nanochat.sampling import Sampling
from nanochat.tools import Tools
from tests.nanochat.tiny_model import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ASKED = {"messages": [{"role": "user", "content": "What is 6*7?"}]}


def test_pieces_join_to_the_reply_up_to_its_end() -> None:
    model = tiny_model(vocab_size=300)
    for seed in range(5):
        sampling = Sampling(temperature=1.5, top_k=0, seed=seed, max_tokens=400)
        (completion,) = Engine(model).generate([render_prompt(TOKENIZER, ASKED)], sampling, stop_tokens(TOKENIZER))
        text = "".join(reply_stream(Engine(model), TOKENIZER, ASKED, sampling))
        assert text == TOKENIZER.decode(completion.tokens)
        assert "<|assistant_end|>" not in text and "<|bos|>" not in text


def test_a_call_and_its_output_are_text() -> None:
    """A model that, after the question, says a call with certainty: its head is made to."""
    model, special = tiny_model(vocab_size=300), TOKENIZER.special_tokens
    script = [special["<|python_start|>"], *TOKENIZER.encode("6*7"), special["<|python_end|>"]]
    end = [special["<|output_end|>"], special["<|assistant_end|>"]]
    # Each token of the script, by its own embedding alone, makes the next one the likeliest.
    before = [special["<|assistant_start|>"], *script[:-1], end[0]]
    for block in model.blocks:
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    model.smear_lambda.zero_()
    model.lm_head.weight.zero_()
    embedded = model.wte.weight / model.wte.weight.norm(dim=1, keepdim=True)
    for token, following in zip(before, [*script, end[1]], strict=True):
        model.lm_head.weight[following] += 9 * embedded[token]
    text = "".join(reply_stream(Engine(model, tools=Tools(TOKENIZER)), TOKENIZER, ASKED, Sampling(temperature=0, max_tokens=40)))
    assert text == "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>"


def test_a_malformed_conversation_is_refused() -> None:
    with pytest.raises(ValueError, match="messages"):
        next(reply_stream(Engine(tiny_model(vocab_size=300)), TOKENIZER, {"messages": []}, Sampling()))
