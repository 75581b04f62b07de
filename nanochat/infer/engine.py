"""Inference engine: continues prompts as a batch, whole or as a stream.

Shapes: `B` rows, `T` tokens, `D` width. The engine reads from any `Context`: the plain KV cache, or one with memories. It continues
a context in place and in lockstep; `nanochat.infer.continuous_batching` shares its sampling and stop conditions, and lets rows come
and go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import Context, KVCache
from nanochat.infer.request import Completion, ReplyRequest, TokenEvent, check_prompt
from nanochat.infer.sampling import Sampling
from nanochat.infer.token_selection import RowSampler, SequenceState
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT

PREFILL_TOKENS = 8192  # of all rows together, in one forward: bounds the device memory that a long prompt takes

OpenContext = Callable[[int, int], Context]  # (rows, tokens expected in each) → an empty context


class Engine:
    """Continues prompts with `model`. `open_context` makes the context to read from, by default a `KVCache`.

    With `tools` the model's tool calls are answered inside its reply.
    """

    def __init__(self, model: GPT, open_context: OpenContext | None = None, tools: Tools | None = None) -> None:
        self.model, self._tools, self._step = model, tools, DecodeStep(model)
        self._open_context = open_context or (lambda rows, tokens: KVCache(model, rows, tokens, step=self._decode_step()))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int] = (), samples: int = 1
    ) -> list[Completion]:
        """Continues each prompt `samples` times; completion `i · samples + j` is sample j of prompt i. See `stream`."""
        context, hidden, streams = self._prefill(prompts, sampling, samples)
        completions = [Completion() for _ in streams]
        for events in self._decode(context, hidden, sampling, stop, streams):
            for event in events:
                completions[event.row].add(event)
        return completions

    def stream(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int] = (), samples: int = 1
    ) -> Iterator[list[int | None]]:
        """Yields at each step the new token of each row: sample j of prompt i is row `i · samples + j`.

        A row ends after `sampling.max_tokens` tokens or with a token of `stop`, which is yielded too; from then on it
        yields None. Each prompt is read once, however many samples continue it. Sample j of a prompt depends on the
        prompt and the seed alone (and, if two tokens are almost equally likely, on how the hardware rounds).

        The length of a prompt is not limited: beyond the model's `max_seq_len` quality degrades.
        Raises `ValueError` for an empty prompt or a token outside the vocabulary.
        """
        context, hidden, streams = self._prefill(prompts, sampling, samples)
        yield from self.resume(context, hidden, sampling, stop, streams)

    def read(self, prompts: Sequence[Sequence[int]], more_tokens: int = 0) -> tuple[Context, Tensor]:
        """A new context that holds the prompts, one per row, and the hidden state [B,D] of each one's last token.

        `more_tokens` is the number of tokens to be appended later, whose slots are reserved at once.
        """
        if not prompts:
            raise ValueError("there must be at least one prompt")
        for prompt in prompts:
            check_prompt(prompt, self.model.config.vocab_size)
        lengths = [len(prompt) for prompt in prompts]
        padded = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        context = self._open_context(len(prompts), padded.shape[1] + more_tokens)
        chunk = max(1, PREFILL_TOKENS // len(prompts))
        for begin in range(0, padded.shape[1], chunk):
            tokens = padded[:, begin : begin + chunk]
            hidden = context.append(tokens, [min(max(length - begin, 0), tokens.shape[1]) for length in lengths])
        return context, hidden

    def resume(
        self, context: Context, hidden: Tensor, sampling: Sampling, stop: Collection[int] = (), streams: Sequence[int] | None = None
    ) -> Iterator[list[int | None]]:
        """Continues what a context holds; `hidden` [B,D] is of its newest tokens. See `stream`.

        `streams[b]` numbers the random stream of row b (default: b). `context` itself is appended to, up to the last token
        but one, until half of its rows have ended; the others continue in a copy.
        """
        rows = context.rows
        for events in self._decode(context, hidden, sampling, stop, range(rows) if streams is None else streams):
            tokens: list[int | None] = [None] * rows
            for event in events:
                tokens[event.row] = event.token
            yield tokens

    def _prefill(self, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int) -> tuple[Context, Tensor, list[int]]:
        """Context, hidden states and random streams of `samples` rows for each prompt."""
        if samples < 1:
            raise ValueError(f"samples is {samples}; it must be at least 1")
        context, hidden = self.read(prompts, sampling.max_tokens)
        if samples > 1:
            rows = [row for row in range(len(prompts)) for _ in range(samples)]
            context, hidden = context.select(rows), hidden[rows]
        return context, hidden, list(range(samples)) * len(prompts)

    def _decode(
        self, context: Context, hidden: Tensor, sampling: Sampling, stop: Collection[int], streams: Sequence[int]
    ) -> Iterator[list[TokenEvent]]:
        """Yields at each step the events of the rows that have not ended."""
        sampler = RowSampler(self._decode_step().head, hidden.device)
        request = ReplyRequest((), sampling, stop, context.rows)  # the context holds the prompts
        for row, stream in enumerate(streams):
            sampler.add(SequenceState(request, row, stream, self._tools))
        running = set(range(context.rows))
        while True:
            events = [event for event in sampler.step(hidden) if event.row in running]
            running -= {event.row for event in events if event.finish is not None}
            yield events
            if not running:
                return
            for row in sampler.rows:
                if row.tool is not None and row.row in running:
                    row.tool.run()
            if 2 * len(running) <= len(sampler.rows):
                kept = [i for i, row in enumerate(sampler.rows) if row.row in running]
                context = context.select(kept)
                sampler.keep(kept)
            hidden = context.append(sampler.tokens[:, None])

    def _decode_step(self) -> DecodeStep:
        """The decode step of the current weights."""
        if not self._step.up_to_date:
            self._step = DecodeStep(self.model)
        return self._step
