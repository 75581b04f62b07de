"""Reading of tokens behind a layered memory, which keeps their keys and values in every layer, and the newest queries.

Shapes: `L` layers, `B` rows, `n` tokens, `H` query heads, `G` key heads, `E` head size, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanochat.model.attention import AttentionBackend, MemoryEntries, attention, attention_with_memory, eager_backend
from nanochat.model.gpt import GPT, Embedded, Rotary


class Read(NamedTuple):
    """Result of reading n tokens: rotated keys and values [L,G,n,E], the newest queries [L,H,·,E], and the last hidden state [D]."""

    keys: Tensor
    values: Tensor
    queries: Tensor
    hidden: Tensor


class Recorder:
    """Attention hook that keeps queries, keys and values of every layer; tokens attend to `memory` (by layer) and to themselves.

    With a `window`, a token sees only as many of the newest tokens.
    """

    def __init__(self, memory: Sequence[MemoryEntries] | None = None, window: int = 0) -> None:
        self._memory, self._window = memory, window
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`."""
        self._kept.append((q, k, v))
        window = self._window or window
        if self._memory is None:
            return attention(q, k, v, window, eager_backend(backend))
        return attention_with_memory(q, k, v, window, self._memory[layer])

    def heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [L,B,n,H,E], keys and values [L,B,n,G,E]."""
        queries, keys, values = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        return queries, keys, values


@torch.no_grad()
def read_behind(model: GPT, embedded: Embedded, rotary: Rotary, memory: Sequence[MemoryEntries] | None, newest: int) -> Read:
    """Reads one row of `embedded` tokens behind `memory` (by layer; None = nothing) and keeps the queries of the `newest` ones."""
    recorder = Recorder(memory)
    x, middle = model.layers(embedded, rotary, attn_hook=recorder)
    queries, keys, values = (part[:, 0].transpose(1, 2) for part in recorder.heads())  # (L, heads, n, E)
    return Read(keys, values, queries[:, :, -newest:], model.finish(x[:, -1:], middle[:, -1:])[0, 0])
