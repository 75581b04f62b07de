"""KV cache whose rows may be backed by an external memory (a Working Context) instead of the raw history.

Shapes: `B` rows, `T` new tokens, `L` layers, `S` slots, `D` width, `H` query heads, `G` key/value heads, `E` head size. A slot holds
the keys and values of an entry, which may be a token or not. Those of an `ExternalMemory` are made by reading its entries in order
and remain valid as long as the entries up to theirs do not change; a `SlotMemory` writes its slots itself, in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import FIRST_CAPACITY, KVCache
from nanochat.infer.step_graphs import Outputs
from nanochat.model.attention import AttentionBackend
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


class Slots(NamedTuple):
    """Slots of a row by layer: keys and values [G,S,E], and biases of the scores [G,S], all views of the row's cache."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: list[Tensor]


class SlotMemory(ABC):
    """History behind a row of a cache whose Working Context is the first `width` slots of the row, kept there by the memory itself.

    All slots are visible in every layer, whatever its window.
    """

    @property
    @abstractmethod
    def position(self) -> int:
        """Position of the next token."""

    @property
    @abstractmethod
    def newest(self) -> int:
        """The newest token."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Slots in use, those of noted tokens included."""

    @property
    @abstractmethod
    def most_slots(self) -> int:
        """The most slots that are ever in use."""

    @abstractmethod
    def move_to(self, slots: Slots | None) -> None:
        """Moves the Working Context to other slots; None = to slots of its own."""

    @abstractmethod
    def extend(self, tokens: Tensor) -> Tensor:
        """Reads tokens, int64 [n]. Returns the hidden state [D] of the last one."""

    @abstractmethod
    def note(self, token: Tensor, queries: Sequence[Tensor]) -> bool:
        """Adds a token, int64 [1], that the model has just read in the next free slot, and its `queries`, L × [H,1,E].

        Returns True if that changed other slots.
        """


class MemoryKVCache(KVCache):
    """`KVCache` in which row b is backed by `memories[b]`, or is a plain row if that is None."""

    def __init__(
        self,
        model: GPT,
        memories: Sequence[ExternalMemory | SlotMemory | None] = (),
        capacity: int = FIRST_CAPACITY,
        max_rows: int = 0,
        dtype: torch.dtype | None = None,
        step: DecodeStep | None = None,
    ) -> None:
        """See `KVCache`. Existing entries of the memories are prefilled with the first tokens that are appended."""
        super().__init__(model, len(memories), capacity, max_rows, dtype, step)
        self.memories = list(memories)
        self._offsets = torch.zeros_like(self._lengths)  # position − slot of the next token
        self._begun = [not isinstance(memory, SlotMemory) for memory in memories]  # False: what is appended next must be read as a prompt
        self._bias: list[Tensor] = []  # of the slots, L × (max_rows,G,1,S); empty as long as no row has a `SlotMemory`
        self._slotted: list[int] = []  # rows that have one
        self._windowless = torch.zeros_like(self._lengths, dtype=torch.bool)  # the same on the device
        self._queries: list[Tensor] = []  # of the newest token by layer, [B,H,1,E]; empty as long as no row has a `SlotMemory`
        self._adopt()

    @torch.no_grad()
    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See `Context`. Several tokens for a row with a memory are read as its entries after the last of them."""
        B, T = tokens.shape
        counts = [T] * B if counts is None else list(counts)
        if len(counts) == B == self.rows and T == 1 and min(counts) == 1 and min(self.lengths) > 0 and all(self._begun):
            self._queries = []
            super().append(tokens)
            self._note(tokens.to(self._device))
            return self.hidden
        plain = [0 if memory is not None else count for memory, count in zip(self.memories, counts, strict=True)]
        if any(plain):
            super().append(tokens, plain)
        for row, (memory, count) in enumerate(zip(self.memories, counts, strict=True)):
            if memory is not None and count:
                if row in self._slotted:
                    hidden = memory.extend(tokens[row, :count])
                    self._refresh(row)
                    self._remember(row, hidden)
                else:
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
        begin = self.rows
        super().admit(other, rows)
        self.memories += [other.memories[row] for row in rows]
        self._begun += [other._begun[row] for row in rows]
        self._offsets[begin : self.rows] = other._offsets[list(rows)]
        self._adopt()

    def remove(self, row: int) -> None:
        """See `KVCache`."""
        if row in self._slotted:
            self.memories[row].move_to(None)
        for listed in (self.memories, self._begun):
            listed[row] = listed[-1]
            listed.pop()
        self._offsets[row] = self._offsets[self.rows - 1]
        super().remove(row)
        self._adopt()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`."""
        if not self._slotted or q.shape[1] > 1:
            return super().attend(layer, q, k, v, window, backend)
        return self._attend_one(layer, *(part.transpose(1, 2) for part in (q, k, v))).view(q.shape).to(q.dtype)

    def _step(self, rows: int) -> Outputs:
        self._queries = []
        return *super()._step(rows), *self._queries

    def _keep(self, outputs: Outputs) -> None:
        self.hidden, self._middle, *self._queries = outputs

    def _attend_one(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._slotted:
            self._queries.append(q)
        return super()._attend_one(layer, q, k, v)

    def _store(self, layer: int, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self._slotted or k.shape[2] > 1:  # several tokens are read by memories themselves
            return super()._store(layer, k, v, window)
        keys, values, mask = super()._store(layer, k, v, 0)
        bias = self._bias[layer][: len(k), :, :, : keys.shape[2]]
        return keys, values, bias if mask is None else bias + self._masks[window][..., : keys.shape[2]]

    def _assign_slots(self, T: int, single: bool) -> None:
        super()._assign_slots(T, single)
        if self._slotted and T == 1 and not single:
            self._widen(self._masks)

    def _make_step_masks(self) -> None:
        super()._make_step_masks()
        if self._slotted:
            self._widen(self._step_masks)

    def _widen(self, masks: dict[int, Tensor]) -> None:
        """Makes all slots of rows that have a `SlotMemory` visible, whatever the window."""
        for window, mask in masks.items():
            if window > 0:
                mask[self._slotted] = masks[0][self._slotted]

    def _leaving(self, newest: Tensor, window: int) -> Tensor:
        left = super()._leaving(newest, window)
        return left.masked_fill(self._windowless[: len(left)], -1) if self._slotted else left

    def _resize(self, capacity: int) -> None:
        super()._resize(capacity)
        self._adopt()

    def _positions(self, rows: int) -> Tensor:
        return self._lengths[:rows] + self._offsets[:rows]

    def _rotary(self, T: int) -> Rotary:
        return self._rotary_of_rows(T) if any(memory is not None for memory in self.memories) else super()._rotary(T)

    def _note(self, tokens: Tensor) -> None:
        """Tells the memories the tokens, int64 [B,1], that were read."""
        for row, memory in enumerate(self.memories):
            if memory is None:
                continue
            if row in self._slotted:
                if memory.note(tokens[row], [q[row] for q in self._queries]):
                    self._refresh(row)
            elif (begin := memory.note(tokens[row], self._middle[row : row + 1])) is not None:
                self._reprefill(row, begin)

    def _adopt(self) -> None:
        """Moves the Working Contexts of all memories that have slots to their rows, which may have changed."""
        before, self._slotted = self._slotted, [row for row, memory in enumerate(self.memories) if isinstance(memory, SlotMemory)]
        if before or self._slotted:
            self._forget_graphs()
        if not self._slotted:
            self._bias = []
            return
        self._windowless.zero_()
        self._windowless[self._slotted] = True
        if (most := max(self.memories[row].most_slots for row in self._slotted)) > self._capacity:
            self._reserve(most)  # comes back here
            return
        rows, G, S, _ = self.keys[0].shape
        self._bias = [keys.new_zeros(rows, G, 1, S) for keys in self.keys]
        for row in self._slotted:
            self.memories[row].move_to(Slots(*([part[row] for part in parts] for parts in (self.keys, self.values, self._squeezed))))
            self._refresh(row)

    @property
    def _squeezed(self) -> list[Tensor]:
        return [bias.squeeze(2) for bias in self._bias]

    def _refresh(self, row: int) -> None:
        """Follows a memory that has changed its slots."""
        memory = self.memories[row]
        self._move_to(row, memory.width)

    def _remember(self, row: int, hidden: Tensor) -> None:
        """Sets the hidden state [D] of a row whose newest token a memory has read."""
        self.hidden = self.hidden.clone()
        self.hidden[row] = hidden
        self._previous[row] = self._before_smear(torch.tensor([self.memories[row].newest], device=self._device))[0]
        self._begun[row] = True

    def _reprefill(self, row: int, begin: int) -> None:
        """Reads the entries of a row's memory from index `begin` on; the earlier ones are in the cache."""
        memory = self.memories[row]
        begin = begin // WIDTH_STEP * WIDTH_STEP
        entries, rotary = memory.entries(begin)
        new = entries.x.shape[1]
        end, padding = begin + new, -new % WIDTH_STEP  # later tokens overwrite the padding
        self._reserve(end + padding)
        if new:
            self._masks = {}
            self._shortest, self._end = begin, end + padding
            self._slots = slice(begin, self._end)
            self._used = [(k[row : row + 1], v[row : row + 1]) for k, v in zip(self.keys, self.values, strict=True)]
            try:
                hidden = self._model.backbone(*pad_entries(entries, rotary, WIDTH_STEP), self)
            finally:
                self._used = []
            self._remember(row, hidden[0, new - 1])
        self._move_to(row, end)

    def _move_to(self, row: int, length: int) -> None:
        """Follows a memory that now has `length` slots in use."""
        self.lengths[row] = length
        self._lengths[row] = length
        self._offsets[row] = self.memories[row].position - length
        self._masked = False
