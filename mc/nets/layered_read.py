"""Reading of tokens behind a layered memory, which keeps their keys and values in every layer, and the newest queries.

Shapes: `L` layers, `n` tokens, `H` query heads, `G` key heads, `E` head size, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanochat.model.attention import AttentionBackend, MemoryEntries, attention, attention_with_memory, eager_backend
from nanochat.model.gpt import GPT, Embedded, Rotary


class Read(NamedTuple):
    """What reading n tokens gives: rotated keys and values [L,G,n,E], the newest queries [L,H,·,E], and the last hidden state [D]."""

    keys: Tensor
    values: Tensor
    queries: Tensor
    hidden: Tensor


class _Keeper:
    """Attention hook that keeps what it sees."""

    def __init__(self, memory: Sequence[MemoryEntries] | None, newest: int) -> None:
        self._memory, self._newest = memory, newest
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`."""
        self.keys.append(k[0])
        self.values.append(v[0])
        self.queries.append(q[0, -self._newest :])
        if self._memory is None:
            return attention(q, k, v, window, eager_backend(backend))
        return attention_with_memory(q, k, v, window, self._memory[layer])

    def kept(self, hidden: Tensor) -> Read:
        """All of it."""
        return Read(*(torch.stack(parts).transpose(1, 2) for parts in (self.keys, self.values, self.queries)), hidden)


@torch.no_grad()
def read_behind(model: GPT, embedded: Embedded, rotary: Rotary, memory: Sequence[MemoryEntries] | None, newest: int) -> Read:
    """Reads one row of `embedded` tokens behind `memory` (by layer; None = nothing) and keeps the queries of the `newest` ones."""
    keeper = _Keeper(memory, newest)
    x, middle = model.layers(embedded, rotary, attn_hook=keeper)
    return keeper.kept(model.finish(x[:, -1:], middle[:, -1:])[0, 0])
