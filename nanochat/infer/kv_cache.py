"""`Context`, which the engine decodes from, and its plain form, a KV cache.

Shapes: `B` rows, `T` new tokens, `S` slots, `D` width, `H` query heads, `G` key/value heads, `E` head size. Row b's tokens are in
slots 0 … lengths[b]−1 of every layer; the rest is padding, masked from the queries and overwritten by later tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.model.attention import AttentionBackend, attention, cache_mask, eager_backend, full_attention
from nanochat.model.block import Rotary, rotary_at
from nanochat.model.gpt import GPT
from nanochat.model.norm import norm

FIRST_CAPACITY = 256  # slots
ALIGNMENT = 64  # capacity is a multiple of this many slots, so that rows of a mask are aligned as CUDA kernels need
FEW_ROWS = 2  # up to this many rows, a CPU is faster with keys in fp32, whatever the model's dtype
GROWTH = 64  # slots that a cache grows by on a CPU if attention reads all of them


class Context(Protocol):
    """History of some rows, as far as the model still sees it."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Adds the first `counts[b]` tokens (default: all) of row b of `tokens`, int64 [B,T].

        Returns the hidden state [B,D] of each row's newest token, including rows without new tokens.
        """

    def select(self, rows: Sequence[int]) -> Self:
        """A context of copies of `rows`, in that order; a row may occur more than once."""


class KVCache:
    """KV cache of every token at the model's full context: a `Context`, and the attention hook that fills it.

    It starts empty and doubles its capacity when full. Its length is not limited, but a model is only trained up to
    `max_seq_len` positions and gets worse beyond. Rows can be admitted and removed one by one, up to `max_rows`. Single tokens
    are decoded with the weights that the model has when the first one is appended.
    """

    def __init__(
        self,
        model: GPT,
        rows: int = 0,
        capacity: int = FIRST_CAPACITY,
        max_rows: int = 0,
        dtype: torch.dtype | None = None,
        step: DecodeStep | None = None,
    ) -> None:
        """`capacity` is the initial number of slots per row; `max_rows` (default: `rows`) is the number of rows with reserved space.

        `dtype` is that of keys and values (default: the model's, or a faster one for few rows). `step` decodes single tokens; several
        caches may share it.
        """
        max_rows = max_rows or rows
        if rows < 0 or max_rows < max(1, rows) or capacity < 1:
            raise ValueError(f"invalid cache shape {rows=}, {max_rows=}, {capacity=}; expected max_rows ≥ max(rows, 1) and capacity ≥ 1")
        config, device = model.config, model.wte.weight.device
        self._model, self._device = model, device
        few = device.type == "cpu" and max_rows <= FEW_ROWS
        self.dtype = dtype or (torch.float32 if few else model.dtype)
        # A CPU multiplies many small bf16 matrices without a copy only if they are contiguous: so it reads all slots, few of them unused.
        self._reads_all = device.type == "cpu" and self.dtype != torch.float32
        self.step = step or DecodeStep(model)
        self._uses_step = device.type != "mps"  # which lacks operations on complex numbers
        self._capacity = _aligned(min(capacity, GROWTH) if self._reads_all else capacity)
        shape = (max_rows, config.key_heads, self._capacity, config.head_dim)
        # Zeros: padding is multiplied by zero, and uninitialised memory may hold NaN.
        self.keys = [torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(config.depth)]  # L × (max_rows, G, S, E)
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self._used: list[tuple[Tensor, Tensor]] = []  # L × views of keys and values, (B, G, S, E); made when needed
        self.lengths = [0] * rows
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)  # the same on the device
        self._row_numbers = torch.arange(max_rows, device=device)[:, None]
        # Of each row's newest token: normalised embedding, hidden state, and the residual stream after the middle layer.
        self._previous = torch.zeros(rows, config.width, dtype=model.dtype, device=device)
        self.hidden = torch.zeros_like(self._previous)
        self._middle = self.hidden
        self.watch: Callable[[Tensor], None] | None = None  # called with the hidden states [B,T,D] of all tokens that are appended
        # Of the tokens being appended: slots, or (row numbers [B,1], slots [B,T]) if the rows differ in length; the least length
        # before them and the greatest after them; the mask of each window, if any.
        self._slots: slice | tuple[Tensor, Tensor] = slice(0)
        self._shortest = self._end = 0
        self._masks: dict[int, Tensor] = {}

    @property
    def rows(self) -> int:
        """See `Context`."""
        return len(self.lengths)

    @torch.no_grad()
    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See `Context`."""
        B, T = tokens.shape
        counts = [T] * B if counts is None else counts
        if not len(counts) == B == self.rows or B == 0 or min(counts) < 0 or max(counts) > T:
            raise ValueError(f"invalid tokens of shape {(B, T)} with counts {counts}; expected {self.rows} rows and counts from 0 to {T}")
        tokens = tokens.to(self._device)
        self._assign_slots(T)
        if T == 1 and min(counts) == 1 and self._uses_step:
            self.hidden, self._previous, self._middle = self.step(tokens[:, 0], self._previous, self._positions, self._attend_one)
            self._lengths = self._lengths + 1
        else:
            x, middle = self._model.layers(self._model.embed(tokens, self._previous), self._rotary(T), self)
            hidden = self._model.finish(x, middle)
            added = torch.tensor(counts, device=self._device)
            last, changed = (self._row_numbers[:B, 0], (added - 1).clamp(min=0)), (added > 0)[:, None]
            self._previous = torch.where(changed, self._before_smear(tokens[last]), self._previous)
            self.hidden, self._middle = torch.where(changed, hidden[last], self.hidden), middle[last]
            self._lengths = self._lengths + added
        if self.watch is not None:
            self.watch(self.hidden[:, None] if T == 1 else hidden)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        return self.hidden

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`. Stores k and v of the tokens being appended; q sees these and all earlier tokens in its window."""
        keys, values, mask = self._store(layer, k.transpose(1, 2), v.transpose(1, 2), window)
        dtype = self._compute_dtype(q.shape[1])
        keys, values = (part.transpose(1, 2).to(dtype) for part in (keys, values))  # (B, S, G, E)
        return attention(q.to(dtype), keys, values, window, eager_backend(backend), mask).to(q.dtype)

    def _attend_one(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attend` for one token per row: q [B,H,1,E], k and v [B,G,1,E] → [B,G,H/G,E]."""
        keys, values, mask = self._store(layer, k, v, self._model.windows[layer])
        B, G, _, E = keys.shape
        return full_attention(q.view(B, G, -1, E).to(self.dtype), keys, values, mask)

    def _store(self, layer: int, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stores k and v [B,G,T,E]. Returns the keys and values [B,G,S,E] in some query's window, and the mask for them, if any."""
        if not self._used:
            self._used = [(k[: self.rows], v[: self.rows]) for k, v in zip(self.keys, self.values, strict=True)]
        keys, values = self._used[layer]
        first = max(0, self._shortest - window + 1) if window > 0 else 0
        if isinstance(self._slots, slice):
            keys[:, :, self._slots], values[:, :, self._slots] = k, v
            return keys[:, :, first : self._end], values[:, :, first : self._end], None
        for stored, new in ((keys, k), (values, v)):
            stored.transpose(1, 2)[self._slots] = new.transpose(1, 2).to(self.dtype)
        if self._reads_all and k.shape[2] == 1:
            return keys, values, self._masks[window]
        seen = slice(first // ALIGNMENT * ALIGNMENT, _aligned(self._end))
        return keys[:, :, seen], values[:, :, seen], self._masks[window][..., seen]

    def select(self, rows: Sequence[int]) -> Self:
        """See `Context`."""
        # More rows may be faster in another dtype; fewer rows keep theirs.
        dtype = self.dtype if len(rows) <= len(self._row_numbers) else None
        other = type(self)(self._model, capacity=self._capacity, max_rows=len(rows), dtype=dtype, step=self.step)
        other.admit(self, rows)
        return other

    @torch.no_grad()
    def admit(self, other: Self, rows: Sequence[int] = (0,)) -> None:
        """Appends copies of `rows` of `other`, a cache of the same model."""
        B, end, index = self.rows, self.rows + len(rows), torch.tensor(rows, device=self._device)
        if end > len(self._row_numbers):
            raise ValueError(f"the cache has space for {len(self._row_numbers)} rows, not for {end}")
        lengths = [other.lengths[row] for row in rows]
        used = max(lengths)
        self._reserve(used)
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[B:end, :, :used] = theirs[:, :, :used][index]
        self.lengths += lengths
        self._lengths = torch.cat([self._lengths, other._lengths[index]])
        self._previous = torch.cat([self._previous, other._previous[index]])
        self.hidden = torch.cat([self.hidden, other.hidden[index]])
        self._masks, self._used = {}, []

    @torch.no_grad()
    def remove(self, row: int) -> None:
        """Removes `row`. The last row takes its place; only that one is copied."""
        last = self.rows - 1
        if row != last:
            used = self.lengths[last]
            for buffer in self.keys + self.values:
                buffer[row, :, :used] = buffer[last, :, :used]
        kept = [last if i == row else i for i in range(last)]
        index = torch.tensor(kept, dtype=torch.int64, device=self._device)
        self.lengths = [self.lengths[i] for i in kept]
        self._lengths, self._previous, self.hidden = (t[index] for t in (self._lengths, self._previous, self.hidden))
        self._masks, self._used = {}, []
        # Gives back what a long row needed that has ended.
        needed = _aligned(max([FIRST_CAPACITY, *self.lengths]))
        if self._capacity >= 2 * needed + GROWTH:
            self._resize(needed)

    @property
    def _positions(self) -> Tensor:
        """Position of the next token of each row, int64 [B]."""
        return self._lengths

    def _before_smear(self, tokens: Tensor) -> Tensor:
        """Normalised embeddings [B,D] of `tokens` [B], which smear mixes into the tokens after them."""
        return norm(self._model.wte(tokens).to(self._model.dtype))

    def _reserve(self, slots: int) -> None:
        """Grows the cache to at least `slots` slots per row."""
        if slots > self._capacity:
            more = self._capacity + GROWTH if self._reads_all else 2 * self._capacity
            self._resize(_aligned(max(slots, more)))

    def _resize(self, capacity: int) -> None:
        used, self._capacity = max(self.lengths, default=0), capacity
        for buffers in (self.keys, self.values):  # one layer at a time, so that never all of them exist twice
            for i, buffer in enumerate(buffers):
                B, G, _, E = buffer.shape
                buffers[i] = buffer.new_zeros(B, G, capacity, E)
                buffers[i][: self.rows, :, :used] = buffer[: self.rows, :, :used]
        self._masks, self._used = {}, []

    def _assign_slots(self, T: int) -> None:
        """Assigns slots to the next T tokens of each row, and makes the masks that their queries need."""
        start = self._shortest = min(self.lengths)
        self._end = max(self.lengths) + T
        self._reserve(self._end)
        if self._end == start + T and not (T == 1 and self._reads_all):
            self._slots, self._masks = slice(start, self._end), {}
            return
        slots = self._lengths[:, None] + torch.arange(T, device=self._device)  # (B, T)
        self._slots = (self._row_numbers[: self.rows], slots)
        if T == 1 and self._masks and next(iter(self._masks.values())).shape[2] == 1:
            self._move_masks(slots[:, 0])
        else:
            length, dtype = self._lengths + T, self._compute_dtype(T)
            self._masks = {w: cache_mask(T, self._capacity, w, length, dtype) for w in set(self._model.windows)}

    def _rotary(self, T: int) -> Rotary:
        """Rotation of the next T tokens of each row."""
        if isinstance(self._slots, slice):
            return self._model.rotary(self._slots.start, self._slots.stop)
        return self._rotary_of_rows(T)

    def _rotary_of_rows(self, T: int) -> Rotary:
        positions = self._positions[:, None] + torch.arange(T, device=self._device)
        return rotary_at(positions, self._model.config.head_dim, self._model.dtype)

    def _move_masks(self, newest: Tensor) -> None:
        """Turns the masks [B,1,1,S] of the last token into those of the next one, in the slots `newest` [B]."""
        rows = self._row_numbers[: self.rows, 0]
        for window, mask in self._masks.items():
            mask[rows, 0, 0, newest] = 0
            if window > 0:
                left = newest - window  # the slot that leaves the window, if the row is long enough
                mask[rows, 0, 0, left.clamp(min=0)] = torch.where(left >= 0, float("-inf"), 0.0).to(mask.dtype)

    def _compute_dtype(self, T: int) -> torch.dtype:
        return self.dtype if T == 1 else self._model.dtype


def _aligned(slots: int) -> int:
    return -(-slots // ALIGNMENT) * ALIGNMENT
