"""A cache whose rows may stand for more than they hold: histories that a memory shows the model through a Working Context.

Shapes: `B` rows, `T` new tokens, `D` width, `S` slots, `G` key/value heads, `E` head size. A slot holds the keys and values of
an entry, be it a token or not. Keys and values stay as long as the entries up to theirs do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import FIRST_CAPACITY, KVCache
from nanochat.model.attention import Backend, attention
from nanochat.model.gpt import GPT, Embedded, Rotary, pad_entries

STEP = 32  # entries


class ExternalMemory(Protocol):
    """The history behind a row of a cache, and what the model reads of it: a sequence of entries, the last of them the newest token."""

    @property
    def position(self) -> int:
        """Where the next token stands."""
        ...

    @property
    def newest(self) -> int:
        """The newest token."""
        ...

    def extend(self, tokens: Tensor) -> int:
        """Adds tokens, int64 [n], that the model has not read. Returns the first entry that is another than before."""
        ...

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """Adds a token, int64 [1], that the model has just read as a new last entry, `middle` [1,D] being its state after the middle
        layer. Returns the first entry that is another than before, None where all are as they were."""
        ...

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """The entries from number `begin` on and their rotations, each for one row."""
        ...


class MemoryKVCache(KVCache):
    """A `KVCache` each row of which has a memory, or none (`memories[b]` is None) and is a plain one then."""

    def __init__(
        self,
        model: GPT,
        memories: Sequence[ExternalMemory | None] = (),
        capacity: int = FIRST_CAPACITY,
        max_rows: int = 0,
        dtype: torch.dtype | None = None,
        step: DecodeStep | None = None,
    ) -> None:
        """See `KVCache`. What the memories hold already is read with the first tokens that are appended."""
        super().__init__(model, len(memories), capacity, max_rows, dtype, step)
        self.memories = list(memories)
        self._offsets = torch.zeros(self.rows, dtype=torch.int64, device=self._device)  # position − slot of the next token

    @torch.no_grad()
    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See `Context`. Several tokens for one row are read in one go: what its Working Context shows after the last of them."""
        B, T = tokens.shape
        counts = [T] * B if counts is None else list(counts)
        if all(memory is None for memory in self.memories):
            return super().append(tokens, counts)
        if len(counts) == B == self.rows and T == 1 and min(counts) == 1 and min(self.lengths) > 0:
            super().append(tokens)
            tokens = tokens.to(self._device)
            for row, memory in enumerate(self.memories):
                if memory is not None:
                    begin = memory.note(tokens[row], self._middle[row : row + 1])
                    if begin is not None:
                        self._rewrite(row, begin)
            return self._hidden
        plain = [0 if memory is not None else count for memory, count in zip(self.memories, counts, strict=True)]
        if any(plain):
            super().append(tokens, plain)
        for row, (memory, count) in enumerate(zip(self.memories, counts, strict=True)):
            if memory is not None and count:
                self._rewrite(row, min(memory.extend(tokens[row, :count]), self.lengths[row]))
        return self._hidden

    def select(self, rows: Sequence[int]) -> MemoryKVCache:
        """See `Context`. A row with a memory goes on in the new one; raises `ValueError` where it would go on twice."""
        once = [row for row in rows if self.memories[row] is not None]
        if len(once) != len(set(once)):
            raise ValueError("a history is continued once: give each row a session of its own, a fork")
        other = super().select(rows)
        other.memories = [self.memories[row] for row in rows]
        other._offsets = self._offsets[list(rows)]
        return other

    def admit(self, other: KVCache, row: int = 0) -> None:
        """See `KVCache`."""
        super().admit(other, row)
        with_memory = isinstance(other, MemoryKVCache)
        self.memories.append(other.memories[row] if with_memory else None)
        offset = other._offsets[row : row + 1] if with_memory else self._offsets.new_zeros(1)
        self._offsets = torch.cat([self._offsets, offset])

    def remove(self, row: int) -> None:
        """See `KVCache`."""
        last = self.rows - 1
        super().remove(row)
        self.memories[row] = self.memories[last]
        self._offsets[row] = self._offsets[last]
        self.memories.pop()
        self._offsets = self._offsets[:last].clone()

    def _like(self, rows: int, dtype: torch.dtype | None) -> MemoryKVCache:
        return MemoryKVCache(self._model, [None] * rows, self._capacity, dtype=dtype, step=self.step)

    @property
    def _positions(self) -> Tensor:
        return self._lengths + self._offsets

    def _rewrite(self, row: int, begin: int) -> None:
        """Reads the entries of a row's memory from number `begin` on; those before have been read."""
        memory = self.memories[row]
        # In whole steps, see `pad_entries`; the slots of the padding are overwritten.
        begin = begin // STEP * STEP
        entries, rotary = memory.entries(begin)
        new = entries.x.shape[1]
        end, padding = begin + new, -new % STEP
        self._reserve(end + padding)
        if new:
            padded = pad_entries(entries, rotary, STEP)
            hidden = self._model.backbone(*padded, _OneRow(self, row, begin, end + padding))
            self._hidden = self._hidden.clone()
            self._hidden[row] = hidden[0, new - 1]
            self._previous = self._previous.clone()
            self._previous[row] = self._before_smear(torch.tensor([memory.newest], device=self._device))[0]
        self.lengths[row] = end
        self._lengths = torch.tensor(self.lengths, device=self._device)
        self._offsets[row] = memory.position - end
        self._masks = {}


class _OneRow:
    """What attention is given where one row of a cache is read alone, from slot `begin` to `end`."""

    def __init__(self, cache: MemoryKVCache, row: int, begin: int, end: int) -> None:
        self._cache, self._row, self._begin, self._end = cache, row, begin, end
        self._index = 0

    def layer(self, index: int) -> _OneRow:
        """The same for each layer, one after the other."""
        self._index = index
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        """See `KVCache.attend`."""
        keys, values = (buffers[self._index][self._row, :, : self._end] for buffers in (self._cache.keys, self._cache.values))  # (G, S, E)
        keys[:, self._begin :], values[:, self._begin :] = k[0].transpose(0, 1), v[0].transpose(0, 1)
        eager: Backend = "sdpa" if backend == "flex" else backend
        keys, values = (part.transpose(0, 1)[None].to(q.dtype) for part in (keys, values))
        return attention(q, keys, values, window, eager)
