"""OpenAI's text completions, `POST /v1/completions`: the model continues a text or tokens as they are, without roles or tools.

A prompt given as text follows `<|bos|>`, as documents do in training; one given as tokens is read as it is. With `echo` the answer
begins with the prompt, and with `logprobs` the tokens of both are scored: of a prompt given as text the first one too, after `<|bos|>`.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest
from nanochat.serve.http.api.generation import Delta, Generation, Serving, Usage, longest_reply
from nanochat.serve.http.api.replies import OpenAIFormat, answer
from nanochat.serve.http.api.schema import (
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    check_characters,
    check_most,
    parse_generation,
    to_bias,
    to_sampling,
)
from nanochat.serve.http.api.score_formats import TextScores
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.streaming import read_json

MAX_PROMPTS = 64


class TextRequest(GenerationRequest):
    """The body of a request for continuations: `prompt` is a text, a list of tokens, or a list of those."""

    prompt: Any
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @field_validator("prompt", mode="after")
    @classmethod
    def _prompts(cls, value: Any) -> list[str | list[int]]:
        prompts = value if isinstance(value, list) and not _is_tokens(value) else [value]
        if not 1 <= len(prompts) <= MAX_PROMPTS or not all(isinstance(each, str) or _is_tokens(each) for each in prompts):
            raise ValueError(f"must be a text, a list of tokens, or a list of 1 to {MAX_PROMPTS} of these")
        return prompts


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def add_text_routes(app: FastAPI, server: Serving) -> None:
    """Adds the route of text completions."""

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = parse_generation(TextRequest, await read_json(request, server.limits), server.limits, server.model_name, server.clients)
        if asked.best_of not in (None, asked.n or 1):
            raise ApiError(400, "best_of must be n", "best_of", "unsupported_parameter")
        prompts = [_tokens(server, prompt) for prompt in asked.prompt]
        generation = Generation(server, _requests(server, asked, prompts), asked.stops, raw=True, silent=asked.max_tokens == 0)
        return await answer(request, server, asked, generation, TextCompletion(server, asked))


def _tokens(server: Serving, prompt: str | list[int]) -> list[int]:
    """The tokens of a prompt. Raises `ApiError` if it is too long, or if one of them does not exist."""
    if isinstance(prompt, str):
        check_characters("prompt", len(prompt), server.limits)
        return server.tokenizer.encode(prompt, bos=True)
    if not 0 <= min(prompt) <= max(prompt) < server.tokenizer.vocab_size:
        raise ApiError(400, f"the prompt has tokens outside of the vocabulary, 0 to {server.tokenizer.vocab_size - 1}", "prompt")
    return prompt


def _requests(server: Serving, asked: TextRequest, prompts: list[list[int]]) -> list[ReplyRequest]:
    sampling, rows = to_sampling(asked, server.defaults), asked.n or 1
    check_most("prompt", rows * len(prompts), server.limits.max_rows + server.limits.max_queue)
    most = longest_reply(server, max(map(len, prompts)), "prompt", least=asked.max_tokens != 0)
    sampling.max_tokens = 1 if asked.max_tokens == 0 else min(sampling.max_tokens, most)
    settings = {
        "stop": stop_tokens(server.tokenizer),
        "rows": rows,
        "deadline": time.monotonic() + server.limits.max_seconds,
        "logprobs": asked.logprobs,
        "score_prompt": bool(asked.echo) and asked.logprobs is not None,
        "tools": False,
        "bias": to_bias(asked, server.tokenizer.vocab_size),
    }
    return [ReplyRequest(prompt, sampling, **settings) for prompt in prompts]


class TextCompletion(OpenAIFormat):
    """The objects that answer one request; see `nanochat.serve.http.api.replies.Format`."""

    def __init__(self, server: Serving, asked: TextRequest) -> None:
        super().__init__("cmpl", "text_completion", server, asked)
        self._tokenizer, self._asked, self._rows = server.tokenizer, asked, asked.n or 1
        self._scores: dict[int, TextScores] = {}  # by reply

    def whole(self, replies: list[Delta], usage: Usage) -> dict[str, Any]:
        """See `Format`."""
        choices = [self._choice(reply, self._prompt(reply.index)) for reply in replies]
        return {**self._common, "object": "text_completion", "choices": choices, "usage": usage.to_json()}

    def opening(self, index: int) -> bytes:
        """See `Format`."""
        scored = self._asked.logprobs is not None
        return b"" if scored or not self._asked.echo else self._event([self._choice(Delta(index), self._prompt(index))])

    def events(self, new: Delta) -> bytes:
        """See `Format`."""
        return self._event([self._choice(new, self._prompt(new.index) if new.prompt_scores else "")])

    def _prompt(self, index: int) -> str:
        """The text of the prompt of a reply, if it is wanted."""
        prompt = self._asked.prompt[index // self._rows]
        return "" if not self._asked.echo else prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _choice(self, reply: Delta, prompt: str) -> dict[str, Any]:
        logprobs = None
        if self._asked.logprobs is not None:
            scores = self._scores.setdefault(reply.index, TextScores(self._tokenizer))
            read = reply.prompt_scores or []
            if isinstance(self._asked.prompt[reply.index // self._rows], str):
                read = read[1:]  # without <|bos|>
            logprobs, added = scores.add(read, prompt=True), scores.add(reply.scores)
            logprobs = {name: values + added[name] for name, values in logprobs.items()}
        return {"index": reply.index, "text": prompt + reply.text, "logprobs": logprobs, "finish_reason": reply.finish}
