"""Inference: prompts in, tokens out, row by row of a batch or as a stream.

Shapes: `B` rows, `T` tokens, `D` width. The engine reads from a `Context` and does not know which kind it is: the plain
cache of keys and values, or a memory. Choosing tokens and stopping are written once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import Context, KVCache
from nanochat.infer.sampling import Sampling
from nanochat.infer.token_selection import RowSampler, SequenceState, tool_state
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT

PREFILL_TOKENS = 8192  # of all rows together, in one forward: bounds the memory that a long prompt takes

OpenContext = Callable[[int, int], Context]  # (rows, tokens expected in each) → an empty context


@dataclass
class Completion:
    """What a row's prompt was continued with. `stop` is the stop token that ended it (not in `tokens`), or None."""

    tokens: list[int] = field(default_factory=list)
    stop: int | None = None


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
        completions = [Completion() for _ in range(len(prompts) * samples)]
        for tokens in self.stream(prompts, sampling, stop, samples):
            for completion, token in zip(completions, tokens, strict=True):
                if token in stop:
                    completion.stop = token
                elif token is not None:
                    completion.tokens.append(token)
        return completions

    def stream(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int] = (), samples: int = 1
    ) -> Iterator[list[int | None]]:
        """Yields at each step the new token of each row: a row is sample j of prompt i, row `i · samples + j`.

        A row ends after `sampling.max_tokens` tokens or with a token of `stop`, which is yielded too; from then on it
        yields None. Each prompt is read once, however many samples continue it. Sample j of a prompt depends on the
        prompt and the seed alone (and, where two tokens are as good as equally likely, on how the hardware rounds).

        Nothing refuses a prompt for its length: positions have no limit, but what is beyond the model's `max_seq_len`
        is beyond what it was trained on. Raises `ValueError` for an empty prompt or a token that is none.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; it must be at least 1")
        context, hidden = self.read(prompts, sampling.max_tokens)
        if samples > 1:
            rows = [row for row in range(len(prompts)) for _ in range(samples)]
            context, hidden = context.select(rows), hidden[rows]
        yield from self.resume(context, hidden, sampling, stop, list(range(samples)) * len(prompts))

    def read(self, prompts: Sequence[Sequence[int]], more_tokens: int = 0) -> tuple[Context, Tensor]:
        """A new context that holds the prompts, one per row, and the hidden state [B,D] of each one's last token.

        `more_tokens` is how many are going to be appended: room made for them at once need not be made later.
        """
        vocabulary = self.model.config.vocab_size
        if not prompts or any(len(prompt) == 0 for prompt in prompts):
            raise ValueError("there must be at least one prompt, and at least one token in each")
        lengths = [len(prompt) for prompt in prompts]
        padded = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        if padded.min() < 0 or padded.max() >= vocabulary:
            raise ValueError(f"token {int(padded.max() if padded.min() >= 0 else padded.min())} is not in the vocabulary of {vocabulary}")
        context = self._open_context(len(prompts), padded.shape[1] + more_tokens)
        chunk = max(1, PREFILL_TOKENS // len(prompts))
        for begin in range(0, padded.shape[1], chunk):
            tokens = padded[:, begin : begin + chunk]
            hidden = context.append(tokens, [min(max(length - begin, 0), tokens.shape[1]) for length in lengths])
        return context, hidden

    def resume(
        self,
        context: Context,
        hidden: Tensor,
        sampling: Sampling,
        stop: Collection[int] = (),
        streams: Sequence[int] | None = None,
    ) -> Iterator[list[int | None]]:
        """Continues what a context holds; `hidden` [B,D] is of its newest tokens. See `stream`.

        `streams[b]` numbers the random stream of row b (default: each its own). `context` itself is appended to, up to
        the last token but one, until half of its rows have ended; the others go on in a copy.
        """
        rows = context.rows
        decoder = RowSampler(self._decode_step().head, hidden.device)
        for stream in range(rows) if streams is None else streams:
            decoder.add(SequenceState(sampling, stop, stream, tool_state(self._tools)))
        active = list(range(rows))  # the row that each row of the context yields to
        running = set(active)
        while True:
            choices, tokens = decoder.step(hidden)
            new: list[int | None] = [None] * rows
            for row, choice in zip(active, choices, strict=True):
                if row in running:
                    new[row] = choice.token
                    if choice.finish is not None:
                        running.remove(row)
            yield new
            if not running:
                return
            for row in decoder.rows:
                if row.tool is not None:
                    row.tool.run()
            if 2 * len(running) <= len(active):
                kept = [i for i, row in enumerate(active) if row in running]
                context, tokens, active = context.select(kept), tokens[kept], [active[i] for i in kept]
                decoder.keep(kept)
            hidden = context.append(tokens[:, None])

    def _decode_step(self) -> DecodeStep:
        """Of the weights as they are now."""
        if not self._step.up_to_date:
            self._step = DecodeStep(self.model)
        return self._step
