"""What inference reads from: `Context`, and its plain form, a cache of keys and values.

Shapes: `B` rows, `T` new tokens, `S` slots, `D` width, `G` key/value heads, `E` head size. Row b's tokens are in slots
0 … lengths[b]−1 of every layer; what lies beyond is padding, hidden from the queries and overwritten by later tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.model.attention import Backend, attention, cache_mask, one_query
from nanochat.model.gpt import GPT, Rotary, norm, rotary_at

FIRST_CAPACITY = 256  # slots
# Slots come in multiples of this, so that a mask's rows are aligned as CUDA's kernels want them.
ALIGNMENT = 64
FEW_ROWS = 2  # for which a CPU is faster with keys in fp32, whatever the model's dtype
GROWTH = 64  # slots that a cache on a CPU, which reads all it has, grows by


class Context(Protocol):
    """The history of some rows, as far as the model still sees it."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Adds the first `counts[b]` tokens (default: all) of row b of `tokens`, int64 [B,T].

        Returns the hidden state [B,D] of each row's newest token, also where a row got none.
        """
        ...

    def select(self, rows: Sequence[int]) -> Self:
        """A context of copies of `rows`, in that order; a row may come more than once."""
        ...


class KVCache:
    """Every token's keys and values, at the model's full context: see `Context`.

    It starts empty and doubles its capacity when full. Nothing limits its length, but a model is only trained up to
    `max_seq_len` positions and gets worse beyond. Rows can be admitted and removed one by one, up to `max_rows`. Single tokens
    are read with the weights that the model has when the first one comes.
    """

    def __init__(
        self,
        model: GPT,
        rows: int,
        capacity: int = FIRST_CAPACITY,
        max_rows: int = 0,
        dtype: torch.dtype | None = None,
        step: DecodeStep | None = None,
    ) -> None:
        """`capacity` is how many slots each row has for now; `max_rows` (default: `rows`) for how many rows there is room.

        `dtype` is that of keys and values (default: the model's, or what is faster for so many rows). `step` is what reads single
        tokens, for several caches to share.
        """
        max_rows = max_rows or rows
        if rows < 0 or max_rows < max(1, rows) or capacity < 1:
            raise ValueError(f"a cache of {rows} rows, {max_rows} at most, and {capacity} slots cannot be; there must be at least 1")
        config, device = model.config, model.wte.weight.device
        self._model, self._device = model, device
        few = device.type == "cpu" and max_rows <= FEW_ROWS
        self.dtype = dtype or (torch.float32 if few else model.dtype)
        # In bf16 a CPU multiplies many small matrices without copying them first only where they lie one behind the other: keys of
        # all slots, used or not. So there are few unused ones.
        self._reads_all = device.type == "cpu" and self.dtype != torch.float32
        self.step = step or DecodeStep(model)
        self._capacity = _aligned(min(capacity, GROWTH) if self._reads_all else capacity)
        shape = (max_rows, config.key_heads, self._capacity, config.head_dim)
        # Zeros: padding is multiplied by zero, and what memory happens to hold may be NaN.
        self.keys = [torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(config.depth)]  # L × (max_rows, G, S, E)
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.lengths = [0] * rows
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)  # the same for the device
        self._row_numbers = torch.arange(max_rows, device=device)[:, None]
        # Normalised embedding of each row's newest token; its hidden state.
        self._previous = torch.zeros(rows, config.width, dtype=model.dtype, device=device)
        self._hidden = torch.zeros_like(self._previous)
        self._middle = self._hidden  # where single tokens are read: after the middle layer, fp32
        self._slots: slice | Tensor = slice(0)  # where the tokens being appended go
        self._shortest = self._end = 0  # least length before these tokens, greatest after them
        self._masks: dict[int, Tensor] = {}  # by window, for rows of different lengths: what each query sees
        self._layers = [_Layer(self, i) for i in range(config.depth)]
        self._used: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer without the rows that there is only room for

    @property
    def rows(self) -> int:
        """See `Context`."""
        return len(self.lengths)

    @property
    def hidden(self) -> Tensor:
        """The hidden state [B,D] of each row's newest token."""
        return self._hidden

    def layer(self, index: int) -> _Layer:
        """What `Attention` of that layer is given."""
        return self._layers[index]

    @torch.no_grad()
    def append(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See `Context`."""
        B, T = tokens.shape
        if B == 0 or self.rows != B or (counts is not None and (len(counts) != B or min(counts) < 0 or max(counts) > T)):
            raise ValueError(f"{self.rows} rows cannot be appended tokens of shape {(B, T)} with counts {counts}")
        tokens = tokens.to(self._device)
        self._reserve(max(self.lengths) + T)
        if T == 1 and (counts is None or min(counts) == 1) and self._device.type != "mps":  # where complex numbers lack operations
            return self._append_one(tokens[:, 0])
        rotary = self._place(T)
        hidden = self._model.backbone(self._model.embed(tokens, self._previous), rotary, self)
        if counts is None or min(counts) == T:
            self.lengths = [length + T for length in self.lengths]
            self._lengths = self._lengths + T
            self._previous, self._hidden = self._before_smear(tokens[:, -1]), hidden[:, -1]
        else:
            added = torch.tensor(counts, device=self._device)
            self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
            self._lengths = self._lengths + added
            last = (self._rows, (added - 1).clamp(min=0))
            self._previous = torch.where(added[:, None] > 0, self._before_smear(tokens[last]), self._previous)
            self._hidden = torch.where(added[:, None] > 0, hidden[last], self._hidden)
        return self._hidden

    def _append_one(self, tokens: Tensor) -> Tensor:
        """Adds one token, int64 [B], to each row."""
        self._place_slots(1)
        self._hidden, self._previous, self._middle = self.step(tokens, self._previous, self._positions, self._attend_one)
        self.lengths = [length + 1 for length in self.lengths]
        self._lengths = self._lengths + 1
        return self._hidden

    def _attend_one(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attend` for one token of each row: q [B,H,E], k and v [B,G,E] → [B,G,H/G,E]."""
        if not self._used:
            self._used = [(k[: self.rows], v[: self.rows]) for k, v in zip(self.keys, self.values, strict=True)]
        (keys, values), window = self._used[layer], self._model.windows[layer]  # (B, G, S, E)
        B, G, _, E = keys.shape
        q = q.view(B, G, -1, E).to(self.dtype)
        if isinstance(self._slots, slice):
            seen = slice(self._first_seen(window), self._end)
            keys[:, :, self._end - 1], values[:, :, self._end - 1] = k, v
            return one_query(q, keys[:, :, seen], values[:, :, seen], None)
        at = self._rows, self._slots[:, 0]
        keys.transpose(1, 2)[at], values.transpose(1, 2)[at] = k.to(self.dtype), v.to(self.dtype)
        if self._reads_all:
            return one_query(q, keys, values, self._masks[window])
        seen = slice(self._first_seen(window) // ALIGNMENT * ALIGNMENT, _aligned(self._end))
        return one_query(q, keys[:, :, seen], values[:, :, seen], self._masks[window][..., seen])

    @torch.no_grad()
    def select(self, rows: Sequence[int]) -> Self:
        """See `Context`."""
        index = torch.tensor(rows, device=self._device)
        used = max(self.lengths[row] for row in rows)
        # Many rows out of few may be faster in another dtype; few out of many go on as they were.
        dtype = self.dtype if len(rows) <= len(self._row_numbers) else None
        other = self._like(len(rows), dtype)
        other._reserve(used)
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            theirs[:, :, :used] = mine[:, :, :used][index]
        other.lengths = [self.lengths[row] for row in rows]
        other._lengths, other._previous, other._hidden = (t[index] for t in (self._lengths, self._previous, self._hidden))
        return other

    def _like(self, rows: int, dtype: torch.dtype | None) -> Self:
        """Another cache of the same model, empty but for that many rows."""
        return type(self)(self._model, rows, self._capacity, dtype=dtype, step=self.step)

    @torch.no_grad()
    def admit(self, other: KVCache, row: int = 0) -> None:
        """Adds a copy of a row of `other`, a cache of the same model, as the last one. Only that row is copied."""
        B, used = self.rows, other.lengths[row]
        if self.keys[0].shape[0] == B:
            raise ValueError(f"the cache has room for {B} rows, and they are taken")
        self._reserve(used)
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[B, :, :used] = theirs[row, :, :used]
        self._used = []
        self.lengths.append(used)
        self._lengths = torch.cat([self._lengths, other._lengths[row : row + 1]])
        self._previous = torch.cat([self._previous, other._previous[row : row + 1]])
        self._hidden = torch.cat([self._hidden, other._hidden[row : row + 1]])
        self._masks = {}

    @torch.no_grad()
    def remove(self, row: int) -> None:
        """Ends `row`. The last row takes its place; only that one is copied."""
        self._used = []
        last = self.rows - 1
        used = self.lengths[last]
        if row != last:
            for buffer in self.keys + self.values:
                buffer[row, :, :used] = buffer[last, :, :used]
        kept = [*range(row), last, *range(row + 1, last)] if row != last else list(range(last))
        index = torch.tensor(kept, dtype=torch.int64, device=self._device)
        self.lengths = [self.lengths[i] for i in kept]
        self._lengths, self._previous, self._hidden = (t[index] for t in (self._lengths, self._previous, self._hidden))
        self._masks = {}
        self._shrink()

    @property
    def _positions(self) -> Tensor:
        """Position of the next token of each row, int64 [B]."""
        return self._lengths

    @property
    def _rows(self) -> Tensor:
        """0 … B−1."""
        return self._row_numbers[: self.rows, 0]

    def _before_smear(self, tokens: Tensor) -> Tensor:
        """What the token after each of `tokens` [B] has mixed into it: [B,D]."""
        return norm(self._model.wte(tokens).to(self._model.dtype))

    def _reserve(self, slots: int) -> None:
        """Makes room for so many slots in each row."""
        if slots > self._capacity:
            more = self._capacity + GROWTH if self._reads_all else 2 * self._capacity
            self._resize(_aligned(max(slots, more)))

    def _shrink(self) -> None:
        """Gives back what a long row needed that has ended."""
        needed = _aligned(max([FIRST_CAPACITY, *self.lengths]))
        if self._capacity >= 2 * needed + GROWTH:
            self._resize(needed)

    def _resize(self, capacity: int) -> None:
        used, self._capacity = max(self.lengths, default=0), capacity
        for buffers in (self.keys, self.values):  # one layer at a time: at no moment are all there twice
            for i, buffer in enumerate(buffers):
                B, G, _, E = buffer.shape
                buffers[i] = buffer.new_zeros(B, G, capacity, E)
                buffers[i][: self.rows, :, :used] = buffer[: self.rows, :, :used]
        self._masks, self._used = {}, []

    def _place(self, T: int) -> Rotary:
        """Decides where the next T tokens of each row go and what they see; returns their positions."""
        self._place_slots(T)
        if isinstance(self._slots, slice):
            return self._model.rotary(self._slots.start, self._slots.stop)
        return rotary_at(self._slots, self._model.config.head_dim, self._model.dtype)

    def _place_slots(self, T: int) -> None:
        start = self._shortest = min(self.lengths)
        self._end = max(self.lengths) + T
        if self._end == start + T and not (T == 1 and self._reads_all):
            self._slots, self._masks = slice(start, self._end), {}
            return
        self._slots = self._lengths[:, None] + torch.arange(T, device=self._device)  # (B, T)
        if T == 1 and self._masks and next(iter(self._masks.values())).shape[2] == 1:
            self._move_masks()
        else:
            length, dtype = self._lengths + T, self._compute_dtype(T)
            self._masks = {w: cache_mask(T, self._capacity, w, length, dtype) for w in set(self._model.windows)}

    def _move_masks(self) -> None:
        """Turns the masks [B,1,1,S] of the last token into those of the one after it."""
        newest = self._slots[:, 0]
        for window, mask in self._masks.items():
            mask[self._rows, 0, 0, newest] = 0
            if window > 0:
                left = newest - window  # the slot that falls out of the window, if it is that long already
                hidden = torch.where(left >= 0, float("-inf"), 0.0).to(mask.dtype)
                mask[self._rows, 0, 0, left.clamp(min=0)] = hidden

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        """Stores k and v [B,T,G,E] of the tokens being appended and lets q [B,T,H,E] see all it may."""
        keys, values = (buffers[layer][: self.rows].transpose(1, 2) for buffers in (self.keys, self.values))  # (B, S, G, E)
        first = self._first_seen(window)
        dtype, mask = self._compute_dtype(q.shape[1]), None
        if backend == "flex":
            backend = "sdpa"  # FlexAttention would be compiled anew for every length of prompt
        if isinstance(self._slots, slice):
            keys[:, self._slots], values[:, self._slots] = k, v
            seen = slice(first, self._end)
        else:
            rows = self._rows[:, None]
            keys[rows, self._slots], values[rows, self._slots] = k.to(self.dtype), v.to(self.dtype)
            seen = slice(first // ALIGNMENT * ALIGNMENT, _aligned(self._end))
            mask = self._masks[window][..., seen]
        y = attention(q.to(dtype), keys[:, seen].to(dtype), values[:, seen].to(dtype), window, backend, mask=mask)
        return y.to(q.dtype)

    def _first_seen(self, window: int) -> int:
        """Nothing before this slot is in anyone's window."""
        return max(0, self._shortest - window + 1) if window > 0 else 0

    def _compute_dtype(self, T: int) -> torch.dtype:
        return self.dtype if T == 1 else self._model.dtype


class _Layer:
    """One layer's view of a cache."""

    def __init__(self, cache: KVCache, index: int) -> None:
        self._cache, self._index = cache, index

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        return self._cache.attend(self._index, q, k, v, window, backend)


def _aligned(slots: int) -> int:
    return -(-slots // ALIGNMENT) * ALIGNMENT
