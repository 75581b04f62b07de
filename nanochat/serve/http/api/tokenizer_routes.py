"""Tokenizer routes, as vLLM has them: text to tokens and back. They need no model and answer at once.

A prompt that is exactly the name of a special token is that token; otherwise text that spells one stays text.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import ConfigDict, FailFast, Field
from starlette.responses import Response

from nanochat.serve.http.api.generation import Serving
from nanochat.serve.http.api.prompts import chat_prompt
from nanochat.serve.http.api.schema import Message, Strict, check_characters, parse_body
from nanochat.serve.http.errors import ApiError, json_response
from nanochat.serve.http.streaming import read_json


class TokenizeRequest(Strict):
    """A prompt or messages that are to be tokenized. With `add_special_tokens` a prompt follows `<|bos|>`."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(default_factory=list)
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Strict):
    """Tokens whose text is wanted."""

    model_config = ConfigDict(extra="ignore")

    tokens: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]


def add_tokenizer_routes(app: FastAPI, server: Serving) -> None:
    """Adds `/tokenize`, `/detokenize` and `/tokenizer_info`."""
    tokenizer, limits = server.tokenizer, server.limits

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        asked = parse_body(TokenizeRequest, await read_json(request, limits))
        if (asked.prompt is None) == (not asked.messages):
            raise ApiError(400, "give prompt or messages", "prompt")
        if asked.prompt is None:
            check_characters("messages", sum(message.characters for message in asked.messages), limits)
            tokens = chat_prompt(tokenizer, asked.messages)
        elif asked.prompt in tokenizer.special_tokens:
            tokens = [tokenizer.special_tokens[asked.prompt]]
        else:
            check_characters("prompt", len(asked.prompt), limits)
            tokens = tokenizer.encode(asked.prompt, bos=asked.add_special_tokens)
        names = [tokenizer.decode([token]) for token in tokens] if asked.return_token_strs else None
        return json_response({"count": len(tokens), "max_model_len": server.context_tokens, "tokens": tokens, "token_strs": names})

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        tokens = parse_body(DetokenizeRequest, await read_json(request, limits)).tokens
        if max(tokens, default=0) >= tokenizer.vocab_size:
            raise ApiError(400, f"there are tokens outside of the vocabulary, 0 to {tokenizer.vocab_size - 1}", "tokens")
        return json_response({"prompt": tokenizer.decode(tokens)})

    @app.get("/tokenizer_info")
    async def information() -> Response:
        # The end of a document is the beginning of the next one.
        names = {"bos_token": "<|bos|>", "eos_token": "<|bos|>", "pad_token": None}
        return json_response({"tokenizer_class": "megacontext", "vocab_size": tokenizer.vocab_size, **names})
