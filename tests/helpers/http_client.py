"""The chat server's application without a process: `serving` gives OpenAI's client for it, and plain HTTP."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from bench.tiny_chat import alphabet, reciting_model, sum_with_a_tool, tiny_tokenizer
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.grammar import JsonConstraint
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.app import ChatServer, create_app

TOKENIZER = tiny_tokenizer()
CONTEXT_TOKENS = 400


def recite(tool: bool = False) -> GPT:
    """The model that recites the alphabet, or the reply with a tool."""
    return reciting_model(TOKENIZER, (sum_with_a_tool if tool else alphabet)(TOKENIZER), 9.0, CONTEXT_TOKENS)


@contextmanager
def serving(model: GPT, **settings: Any) -> Iterator[TestClient]:
    """Plain HTTP to a server of `model`, whose tools are the calculator."""
    with DecodeThread(Batcher(model, 4, Tools(TOKENIZER), constrain=functools.partial(JsonConstraint, TOKENIZER)), 4, 8) as thread:
        settings = {"defaults": Sampling(temperature=0, max_tokens=10), **settings}
        server = ChatServer(thread, TOKENIZER, "sft-tiny", model.config.max_seq_len, **settings)
        with TestClient(create_app(server), base_url="http://localhost") as client:
            client.server = server
            yield client
