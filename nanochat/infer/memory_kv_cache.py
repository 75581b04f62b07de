"""KV cache whose rows may be backed by an external memory (a Working Context) instead of the raw history.

Shapes: `B` rows, `T` new tokens, `D` width. A slot holds the keys and values of an entry, which may be a token or not. They remain
valid as long as the entries up to theirs do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import FIRST_CAPACITY, KVCache
from nanochat.model.block import Rotary
from nanochat.model.gpt import GPT, Embedded, pad_entries

WIDTH_STEP = 32  # entries; see `pad_entries`


class ExternalMemory(Protocol):
    """History behind a row of a cache, read by the model as a sequence of entries, the last of which is the newest token."""

    @property
    def position(self) -> int:
        """Position of the next token."""

    @property
    def newest(self) -> int:
        """The newest token."""

    def extend(self, tokens: Tensor) -> int:
        """Adds tokens, int64 [n], that the model has not read. Returns the index of the first entry that changed."""

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """Adds a token, int64 [1], that the model has just read as a new last entry; `middle` [1,D] is the residual stream after the
        middle layer. Returns the index of the first entry that changed, None if none did."""

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """The entries from index `begin` on and their rotations, as a batch of one row."""


class MemoryKVCache(KVCache):
    """`KVCache` in which row b is backed by `memories[b]`, or is a plain row if that is None."""

    def __init__(
        self,
        model: GPT,
        memories: Sequence[ExternalMemory | None] = (),
        capacity: int = FIRST_CAPACITY,
        max_rows: int = 0,
        dtype: torch.dtype | None = None,
        step: DecodeStep | None = None,
    ) -> None:
        """See `KVCache`. Existing entries of the memories are prefilled with the first tokens that are appended."""
        super().__init__(model, len(memories), capacity, max_rows, dtype, step)
        self.memories = list(memories)
        self._offsets = torch.zeros(self.rows, dtype=torch.int64, device=self._device)  # position − slot of the next token

    @torch.no_grad()
    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See `Context`. Several tokens for a row with a memory are read as its entries after the last of them."""
        B, T = tokens.shape
        counts = [T] * B if counts is None else list(counts)
        if len(counts) == B == self.rows and T == 1 and min(counts) == 1 and min(self.lengths) > 0:
            super().append(tokens)
            tokens = tokens.to(self._device)
            for row, memory in enumerate(self.memories):
                if memory is not None:
                    begin = memory.note(tokens[row], self._middle[row : row + 1])
                    if begin is not None:
                        self._reprefill(row, begin)
            return self.hidden
        plain = [0 if memory is not None else count for memory, count in zip(self.memories, counts, strict=True)]
        if any(plain):
            super().append(tokens, plain)
        for row, (memory, count) in enumerate(zip(self.memories, counts, strict=True)):
            if memory is not None and count:
                self._reprefill(row, min(memory.extend(tokens[row, :count]), self.lengths[row]))
        return self.hidden

    def select(self, rows: Sequence[int]) -> MemoryKVCache:
        """See `Context`. Memories move to the new context; raises `ValueError` if two rows would share one."""
        backed = [row for row in rows if self.memories[row] is not None]
        if len(backed) != len(set(backed)):
            raise ValueError("two rows cannot continue the same memory; fork the session for each row")
        return super().select(rows)

    def admit(self, other: MemoryKVCache, rows: Sequence[int] = (0,)) -> None:
        """See `KVCache`."""
        super().admit(other, rows)
        self.memories += [other.memories[row] for row in rows]
        self._offsets = torch.cat([self._offsets, other._offsets[list(rows)]])

    def remove(self, row: int) -> None:
        """See `KVCache`."""
        super().remove(row)
        self.memories[row], self._offsets[row] = self.memories[-1], self._offsets[-1]
        self.memories.pop()
        self._offsets = self._offsets[:-1].clone()

    @property
    def _positions(self) -> Tensor:
        return self._lengths + self._offsets

    def _rotary(self, T: int) -> Rotary:
        return self._rotary_of_rows(T) if any(memory is not None for memory in self.memories) else super()._rotary(T)

    def _reprefill(self, row: int, begin: int) -> None:
        """Reads the entries of a row's memory from index `begin` on; the earlier ones are in the cache."""
        memory = self.memories[row]
        begin = begin // WIDTH_STEP * WIDTH_STEP
        entries, rotary = memory.entries(begin)
        new = entries.x.shape[1]
        end, padding = begin + new, -new % WIDTH_STEP  # later tokens overwrite the padding
        self._reserve(end + padding)
        self._masks = {}
        if new:
            self._shortest, self._end = begin, end + padding
            self._slots = slice(begin, self._end)
            self._used = [(k[row : row + 1], v[row : row + 1]) for k, v in zip(self.keys, self.values, strict=True)]
            try:
                hidden = self._model.backbone(*pad_entries(entries, rotary, WIDTH_STEP), self)
            finally:
                self._used = []
            self.hidden, self._previous = self.hidden.clone(), self._previous.clone()
            self.hidden[row] = hidden[0, new - 1]
            self._previous[row] = self._before_smear(torch.tensor([memory.newest], device=self._device))[0]
        self.lengths[row] = end
        self._lengths = torch.tensor(self.lengths, device=self._device)
        self._offsets[row] = memory.position - end
