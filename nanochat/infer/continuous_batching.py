"""Continuous batching: requests of any length and any sampling share the decoding steps, and join and leave between them.

The rows are slots of one cache. The last row moves to the slot of one that ends, so that rows stay contiguous and no other is
copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import ExternalMemory, MemoryKVCache
from nanochat.infer.request import Completion, ReplyRequest, TokenEvent, check_prompt
from nanochat.infer.score_rules import Constraint
from nanochat.infer.token_scores import HEAD_POSITIONS, TokenScore, score_tokens
from nanochat.infer.token_selection import RowSampler, SequenceState
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT

TOOL_POLL_SECONDS = 0.05  # how long a step waits if there is nothing but running code
PREFILL_CHUNK = 512  # prompt tokens read between two steps: bounds how long the other rows wait for a newcomer


class _Prefill:
    """Prefill of one prompt, for the first waiting row and all behind it that have the same prompt and no memory."""

    def __init__(self, model: GPT, row: SequenceState, like: KVCache) -> None:
        self._row, self._prompt = row, row.request.prompt
        self.cache = MemoryKVCache(model, [row.memory], len(self._prompt), dtype=like.dtype, step=like.step)
        self._tokens = torch.tensor([self._prompt])
        self.left = len(self._prompt)  # tokens that are still to be read
        self.scores: list[TokenScore] = []  # of the tokens read so far, if they are wanted
        if row.request.score_prompt:
            self.scores.append(TokenScore(self._prompt[0], None))
            self.cache.watch = lambda hidden: self._score(model, hidden[0])

    def serves(self, row: SequenceState) -> bool:
        """True if `row` continues what is read here."""
        mine, its = self._row.request, row.request
        alike = its.prompt == self._prompt and (its.score_prompt, its.logprobs) == (mine.score_prompt, mine.logprobs)
        return row is self._row or (row.memory is None and self._row.memory is None and alike)

    def read(self, tokens: int) -> int:
        """Reads up to `tokens` more prompt tokens and returns how many.

        With a memory the prompt is read in one go, so that the focus does not depend on other requests.
        """
        tokens = min(tokens, self.left) if self._row.memory is None else self.left
        begin = len(self._prompt) - self.left
        self.cache.append(self._tokens[:, begin : begin + tokens])
        self.left -= tokens
        return tokens

    def _score(self, model: GPT, hidden: Tensor) -> None:
        """Scores the prompt tokens that follow those with the hidden states [T,D]."""
        begin = len(self.scores)
        targets = torch.tensor(self._prompt[begin : begin + len(hidden)], device=hidden.device)
        for some, its_targets in zip(hidden[: len(targets)].split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True):
            self.scores += score_tokens(model.logits(some), its_targets, self._row.request.logprobs)


@dataclass(eq=False)
class _WaitingForTool:
    """A row whose code is running; it is out of the batch meanwhile, and its newest token not yet in its cache."""

    row: SequenceState
    cache: KVCache
    output: Future[str]


class Batcher:
    """Decodes up to `max_rows` rows together. Not thread-safe: one thread owns it.

    Code that a model has written runs in other threads; the other rows continue meanwhile.

    A reply depends on its prompt, sampling and random stream alone, not on the other rows (but if two tokens are almost equally
    likely, on how the hardware rounds).
    """

    def __init__(
        self,
        model: GPT,
        max_rows: int,
        tools: Tools | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        constrain: Callable[[str], Constraint] | None = None,
    ) -> None:
        """`constrain` makes the constraint of a request's grammar; without it there are none."""
        if max_rows < 1 or prefill_chunk < 1:
            raise ValueError(f"max_rows is {max_rows} and prefill_chunk {prefill_chunk}; both must be at least 1")
        self._max_rows, self._model, self._tools, self._prefill_chunk = max_rows, model, tools, prefill_chunk
        self._constrain = constrain
        self._cache = MemoryKVCache(model, max_rows=max_rows)
        self._sampler = RowSampler(self._cache.step.head, model.wte.weight.device)  # its rows are those of the cache
        self._waiting: deque[SequenceState] = deque()
        self._parked: list[_WaitingForTool] = []
        self._runners = ThreadPoolExecutor(max_rows, "tool") if tools is not None and tools.run is not None else None
        self._prefill: _Prefill | None = None

    @property
    def active(self) -> int:
        """Number of rows that are being decoded or wait for their code."""
        return len(self._sampler.rows) + len(self._parked)

    @property
    def idle(self) -> bool:
        """True if there is nothing to do."""
        return not self.active and not self._waiting

    def add(self, request: ReplyRequest, memory: ExternalMemory | None = None) -> None:
        """Queues the rows of a request, whose prompt is read once.

        With a `memory` there is one row, and the prompt continues what the memory holds. Once it is read, `memory` holds the
        prompt and all decoded tokens but the last; the caller may use it again after the last event, or `cancel`. Raises
        `ValueError` for an empty prompt, a token outside the vocabulary, and a memory that another request continues.
        """
        check_prompt(request.prompt, self._model.config.vocab_size)
        rows = [*self._waiting, *self._sampler.rows, *(parked.row for parked in self._parked)]
        if memory is not None and any(row.memory is memory for row in rows):
            raise ValueError("another request continues this memory; wait for its end, or give a fork")
        if request.grammar is not None and self._constrain is None:
            raise ValueError("invalid grammar: replies are not constrained here")
        for row in range(request.rows):
            constraint = None if request.grammar is None else self._constrain(request.grammar)
            self._waiting.append(SequenceState(request, row, request.first_stream + row, self._tools, memory, constraint))

    def cancel(self, id: int, row: int | None = None) -> None:
        """Ends a row of request `id` (None: all) without another event; its slot is free at once. Unknown or finished ids are ignored."""

        def stays(state: SequenceState) -> bool:
            return state.request.id != id or row not in (None, state.row)

        for parked in self._parked:
            if not stays(parked.row):
                parked.output.cancel()
        self._parked = [parked for parked in self._parked if stays(parked.row)]
        self._waiting = deque(filter(stays, self._waiting))
        self._remove([i for i, state in enumerate(self._sampler.rows) if not stays(state)])

    @torch.no_grad()
    def step(self) -> list[TokenEvent]:
        """One new token for each active row; before, continues the prefill of a waiting prompt and admits rows that are read.

        If all rows wait for their code, it waits for a moment and returns no events.
        """
        self._resume()
        if self._sampler.rows:
            self._cache.append(self._sampler.tokens[:, None])
        self._admit()
        if not self._sampler.rows:
            return []
        events = self._sampler.step(self._cache.hidden)
        leaving = []
        for i, (row, event) in enumerate(zip(self._sampler.rows, events, strict=True)):
            if event.finish is not None:
                leaving.append(i)
            elif row.tool is not None and row.tool.pending is not None:
                output = self._runners.submit(self._tools.run, row.tool.pending)
                self._parked.append(_WaitingForTool(row, self._cache.select([i]), output))
                leaving.append(i)
        self._remove(leaving)
        return events

    def complete(self, requests: Sequence[ReplyRequest]) -> dict[int, list[Completion]]:
        """Decodes `requests` to their ends: the completions of each request's rows, by its id, in the order of `requests`."""
        completions = {request.id: [Completion() for _ in range(request.rows)] for request in requests}
        for request in requests:
            self.add(request)
        while not self.idle:
            for event in self.step():
                completions[event.id][event.row].add(event)
        return completions

    def close(self) -> None:
        """Ends the threads that run code, once their code has ended."""
        if self._runners is not None:
            self._runners.shutdown(wait=False, cancel_futures=True)

    def _resume(self) -> None:
        """Returns rows to the batch whose code has run."""
        full = self.active == self._max_rows
        if self._parked and not self._sampler.rows and (full or not self._waiting):
            wait([parked.output for parked in self._parked], TOOL_POLL_SECONDS, FIRST_COMPLETED)
        for parked in [parked for parked in self._parked if parked.output.done()]:
            self._parked.remove(parked)
            parked.row.tool.answer(parked.output.result())
            self._enter(parked.row, parked.cache)

    def _enter(self, row: SequenceState, cache: KVCache) -> None:
        self._cache.admit(cache)
        self._sampler.add(row)

    def _admit(self) -> None:
        """Reads about `prefill_chunk` tokens of prompts, and admits rows whose prompts are read while there is room."""
        left = self._prefill_chunk
        while self._waiting and self.active < self._max_rows:
            row = self._waiting[0]
            if self._prefill is None or not self._prefill.serves(row):
                self._prefill = _Prefill(self._model, row, self._cache)
            if self._prefill.left > 0:
                if left <= 0:
                    return
                left -= self._prefill.read(left)
            if self._prefill.left == 0:
                row.prompt_scores = self._prefill.scores or None
                self._enter(self._waiting.popleft(), self._prefill.cache)
        if not self._waiting:
            self._prefill = None  # nothing waits that could have the same prompt

    def _remove(self, leaving: list[int]) -> None:
        """Removes rows from the batch, given in ascending order. The last ones take their slots."""
        if not leaving:
            return
        kept = list(range(len(self._sampler.rows)))
        for i in reversed(leaving):
            self._cache.remove(i)
            kept[i] = kept[-1]
            kept.pop()
        self._sampler.keep(kept)
