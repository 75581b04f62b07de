"""Continuous batching: requests of any length and any settings share the decoding steps, and come and go between them.

The rows are slots of one cache. A row that ends gives its slot to the last one,
so that what is decoded always lies together, and no other row is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import ExternalMemory, MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.infer.token_selection import Finish, RowSampler, SequenceState, tool_state
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT

TOOL_POLL_SECONDS = 0.05  # how long a step waits where there is nothing but running code
PREFILL_CHUNK = 512  # tokens of prompts read between two steps: bounds how long rows wait for a newcomer


class TokenEvent(NamedTuple):
    """A new token of request `id`, whether a tool forced it, and why it is the last one, where it is.

    With the finish `stop` the token is the stop token.
    """

    id: int
    token: int | None
    forced: bool
    finish: Finish | None


@dataclass
class Continuation:
    """What a request was continued with: all tokens, which of them a tool forced, and whether a stop token, the last one, ended it."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    ended: bool = False

    @property
    def said(self) -> list[int]:
        """The tokens without the stop token."""
        return self.tokens[:-1] if self.ended else self.tokens


@dataclass(eq=False)
class _Request:
    id: int
    prompt: tuple[int, ...]
    row: SequenceState
    memory: ExternalMemory | None


class _Prefill:
    """A prompt being read, for the first of the waiting requests and all behind it that have the same and no memory."""

    def __init__(self, model: GPT, request: _Request, like: KVCache) -> None:
        self._request = request
        self._cache = MemoryKVCache(model, [request.memory], len(request.prompt), dtype=like.dtype, step=like.step)
        self._tokens = torch.tensor([request.prompt])
        self.left = len(request.prompt)  # tokens that are still to be read

    def serves(self, request: _Request) -> bool:
        """Whether what is read here is what `request` goes on from."""
        shared = request.memory is None and self._request.memory is None and request.prompt == self._request.prompt
        return request is self._request or shared

    def read(self, tokens: int) -> int:
        """Reads so many more; returns how many it were. With a memory all: where the focus goes must not depend on the others."""
        tokens = min(tokens, self.left) if self._request.memory is None else self.left
        begin = len(self._request.prompt) - self.left
        self._cache.append(self._tokens[:, begin : begin + tokens])
        self.left -= tokens
        return tokens

    @property
    def cache(self) -> KVCache:
        """The context that holds the prompt."""
        return self._cache


@dataclass(eq=False)
class _WaitingForTool:
    """A request whose code is being run: its row is out of the batch meanwhile."""

    request: _Request
    cache: KVCache
    token: int  # its newest, not yet in the cache
    output: Future[str]


class Batcher:
    """Decodes up to `max_rows` requests together. Not thread-safe: one thread owns it.

    Code that a model has written is run in other threads; the other rows go on meanwhile.

    A request's tokens depend on its prompt, sampling and stream alone, whatever shares the batch (but where two tokens are as
    good as equally likely, on how the hardware rounds).
    """

    def __init__(self, model: GPT, max_rows: int, tools: Tools | None = None, prefill_chunk: int = PREFILL_CHUNK) -> None:
        if max_rows < 1 or prefill_chunk < 1:
            raise ValueError(f"max_rows is {max_rows} and prefill_chunk {prefill_chunk}; both must be at least 1")
        self.max_rows, self._model, self._tools, self._prefill_chunk = max_rows, model, tools, prefill_chunk
        self._cache = MemoryKVCache(model, max_rows=max_rows)
        self._decoder = RowSampler(self._cache.step.head, model.wte.weight.device)
        self._waiting: deque[_Request] = deque()
        self._active: list[_Request] = []  # in the order of the cache's rows
        self._parked: list[_WaitingForTool] = []
        self._runners = ThreadPoolExecutor(max_rows, "tool") if tools is not None and tools.run is not None else None
        self._prefill: _Prefill | None = None
        self._next_id = 0
        self._tokens = torch.empty(0, dtype=torch.int64, device=model.wte.weight.device)  # the newest of each row, not yet in the cache

    @property
    def active(self) -> int:
        """How many requests are being decoded, or wait for code of theirs."""
        return len(self._active) + len(self._parked)

    @property
    def waiting(self) -> int:
        """How many requests are not yet being decoded."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.active and not self._waiting

    def add(
        self, prompt: Sequence[int], sampling: Sampling, stop: Collection[int] = (), stream: int = 0, memory: ExternalMemory | None = None
    ) -> int:
        """Takes a request; returns its id. The same prompt given several times in a row is read once.

        `stream` tells samples of one prompt and seed apart. With a `memory` the prompt goes on with what that holds. From when
        it is read, `memory` has all of the prompt and what is decoded but for the last token; it is the caller's again after the
        last event, or `cancel`. Raises `ValueError` for a prompt that is empty or has a token that is none, and for a memory that
        another request goes on with.
        """
        prompt = tuple(prompt)
        vocabulary = self._model.config.vocab_size
        if not prompt:
            raise ValueError("the prompt is empty; it must have at least one token")
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            wrong = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ValueError(f"token {wrong} is not in the vocabulary of {vocabulary}")
        others = [*self._waiting, *self._active, *(parked.request for parked in self._parked)]
        if memory is not None and any(other.memory is memory for other in others):
            raise ValueError("another request goes on with this memory; wait for its end, or give a fork")
        request = _Request(self._next_id, prompt, SequenceState(sampling, stop, stream, tool_state(self._tools)), memory)
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, id: int) -> None:
        """Ends a request without another event; its row is free at once. One that has ended, or never was, is none's loss."""
        for i, request in enumerate(self._active):
            if request.id == id:
                return self._remove([i])
        for parked in self._parked:
            if parked.request.id == id:
                parked.output.cancel()
        self._parked = [parked for parked in self._parked if parked.request.id != id]
        self._waiting = deque(request for request in self._waiting if request.id != id)

    @torch.no_grad()
    def step(self) -> list[TokenEvent]:
        """One new token for each active row; before, reads on in a waiting prompt and admits those that are read.

        Where all there is to do is to wait for code that runs, it waits for a moment and returns no events.
        """
        self._resume()
        if self._active:
            self._cache.append(self._tokens[:, None])
        self._admit()
        if not self._active:
            return []
        choices, self._tokens = self._decoder.step(self._cache.hidden)
        events = [TokenEvent(request.id, *choice) for request, choice in zip(self._active, choices, strict=True)]
        ended = {i for i, choice in enumerate(choices) if choice.finish is not None}
        for i, request in enumerate(self._active):
            if i not in ended and request.row.tool is not None and request.row.tool.pending is not None:
                output = self._runners.submit(self._tools.run, request.row.tool.pending)
                self._parked.append(_WaitingForTool(request, self._cache.select([i]), choices[i].token, output))
                ended.add(i)
        self._remove(sorted(ended))
        return events

    def drain(self) -> dict[int, Continuation]:
        """Decodes until there is nothing to do: what became of each request that was not yet at its end, by id."""
        continuations: dict[int, Continuation] = {}
        while not self.idle:
            for event in self.step():
                continuation = continuations.setdefault(event.id, Continuation())
                if event.token is not None:
                    continuation.tokens.append(event.token)
                    continuation.forced.append(event.forced)
                continuation.ended |= event.finish == "stop"
        return continuations

    def close(self) -> None:
        """Ends the threads that run code, as soon as they are through with it."""
        if self._runners is not None:
            self._runners.shutdown(wait=False, cancel_futures=True)

    def _resume(self) -> None:
        """Rows whose code has run come back."""
        full = self.active == self.max_rows
        if self._parked and not self._active and (full or not self._waiting):
            wait([parked.output for parked in self._parked], TOOL_POLL_SECONDS, FIRST_COMPLETED)
        for parked in [parked for parked in self._parked if parked.output.done()]:
            self._parked.remove(parked)
            parked.request.row.tool.answer(parked.output.result())
            self._tokens = torch.cat([self._tokens, self._tokens.new_tensor([parked.token])])
            self._enter(parked.request, parked.cache)

    def _enter(self, request: _Request, cache: KVCache) -> None:
        self._cache.admit(cache)
        self._decoder.add(request.row)
        self._active.append(request)

    def _admit(self) -> None:
        """Reads about `prefill_chunk` tokens of prompts, and admits requests whose prompts are read while there is room."""
        left = self._prefill_chunk
        while self._waiting and self.active < self.max_rows:
            request = self._waiting[0]
            if self._prefill is None or not self._prefill.serves(request):
                self._prefill = _Prefill(self._model, request, self._cache)
            if self._prefill.left > 0:
                if left <= 0:
                    return
                left -= self._prefill.read(left)
            if self._prefill.left == 0:
                self._enter(self._waiting.popleft(), self._prefill.cache)
        if not self._waiting:
            self._prefill = None  # nothing waits that could have the same prompt

    def _remove(self, ended: list[int]) -> None:
        """Ends these rows. The last ones take their places."""
        if not ended:
            return
        kept = list(range(len(self._active)))
        for i in sorted(ended, reverse=True):
            self._cache.remove(i)
            kept[i] = kept[-1]
            kept.pop()
        self._active = [self._active[i] for i in kept]
        self._decoder.keep(kept)
        self._tokens = self._tokens[kept]
