"""`Context`, which the engine decodes from, and its plain form, a KV cache.

Shapes: `B` rows, `T` new tokens, `S` slots, `D` width, `H` query heads, `G` key/value heads, `E` head size. Row b's tokens are in
slots 0 … lengths[b]−1 of every layer; the rest is padding, masked from the queries and overwritten by later tokens.

The step of single tokens works on tensors that stay where they are. Where reading all slots costs less than choosing them, its shapes
depend on the number of rows alone, and on CUDA it is replayed as a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.step_graphs import Outputs, StepGraphs, capture_for
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
        self._grows_slowly = device.type == "cpu" and self.dtype != torch.float32
        capture = capture_for(device)
        self._graphs = None if capture is None else StepGraphs(capture, max_rows)
        self._reads_all = self._grows_slowly or self._graphs is not None
        self.step = step or DecodeStep(model)
        self._uses_step = device.type != "mps"  # which lacks operations on complex numbers
        self._capacity = _aligned(min(capacity, GROWTH) if self._grows_slowly else capacity)
        shape = (max_rows, config.key_heads, self._capacity, config.head_dim)
        # Zeros: padding is multiplied by zero, and uninitialised memory may hold NaN.
        self.keys = [torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(config.depth)]  # L × (max_rows, G, S, E)
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self._used: list[tuple[Tensor, Tensor]] = []  # L × views of keys and values, (B, G, S, E); made when needed
        self.lengths = [0] * rows
        self._row_numbers = torch.arange(max_rows, device=device)[:, None]
        # By row, of which the first B are used: the length, the newest token, and its normalised embedding.
        self._lengths, self._tokens = (torch.zeros(max_rows, dtype=torch.int64, device=device) for _ in range(2))
        self._previous = torch.zeros(max_rows, config.width, dtype=model.dtype, device=device)
        # Of each row's newest token: hidden state, and the residual stream after the middle layer.
        self.hidden = self._middle = self._previous[:rows].clone()
        self.watch: Callable[[Tensor], None] | None = None  # called with the hidden states [B,T,D] of all tokens that are appended
        # Of the tokens being appended: slots, or (row numbers [B,1], slots [B,T]) if the rows differ in length; the least length
        # before them and the greatest after them; the mask of each window, if any.
        self._slots: slice | tuple[Tensor, Tensor] = slice(0)
        self._shortest = self._end = 0
        self._masks: dict[int, Tensor] = {}
        # Masks [max_rows,1,1,S] of single tokens by window, and whether they are those of each row's newest token.
        self._step_masks: dict[int, Tensor] = {}
        self._masked = False

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
        single = T == 1 and min(counts) == 1 and self._uses_step
        self._assign_slots(T, single)
        if single:
            self._tokens[:B] = tokens[:, 0]
            self._keep(self._run_step())
        else:
            x, middle = self._model.layers(self._model.embed(tokens, self._previous[:B]), self._rotary(T), self)
            hidden = self._model.finish(x, middle)
            added = torch.tensor(counts, device=self._device)
            last, changed = (self._row_numbers[:B, 0], (added - 1).clamp(min=0)), (added > 0)[:, None]
            self._previous[:B] = torch.where(changed, self._before_smear(tokens[last]), self._previous[:B])
            self.hidden, self._middle = torch.where(changed, hidden[last], self.hidden), middle[last]
            self._lengths[:B] += added
        if self.watch is not None:
            self.watch(self.hidden[:, None] if T == 1 else hidden)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        return self.hidden

    def _run_step(self) -> Outputs:
        """Reads one token of each row; see `_step`."""
        B = self.rows
        if self._graphs is None:
            return self._step(B)
        rows = self._graphs.rows(B)
        self._lengths[B:rows] = 0  # rows that are not used, which must not run out of slots
        return tuple(output[:B].clone() for output in self._graphs(self._step, rows))

    def _step(self, rows: int) -> Outputs:
        """Reads `_tokens` of the first `rows` rows. Returns their hidden states and the residual stream after the middle layer.

        If all slots are read, Python decides nothing here that may differ in the next step.
        """
        lengths = self._lengths[:rows]
        if not isinstance(self._slots, slice):
            self._slots = self._row_numbers[:rows], lengths[:, None]
            self._masks = {window: mask[:rows] for window, mask in self._step_masks.items()}
            self._move_masks(lengths)
        hidden, previous, middle = self.step(self._tokens[:rows], self._previous[:rows], self._positions(rows), self._attend_one)
        self._previous[:rows] = previous
        lengths += 1
        return hidden, middle

    def _keep(self, outputs: Outputs) -> None:
        """Keeps what `_step` returned."""
        self.hidden, self._middle = outputs

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
        rows = len(k)
        if not self._used or len(self._used[0][0]) != rows:
            self._used = [(k[:rows], v[:rows]) for k, v in zip(self.keys, self.values, strict=True)]
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
        self._lengths[B:end], self._previous[B:end] = other._lengths[index], other._previous[index]
        self.hidden = torch.cat([self.hidden, other.hidden[index]])
        self._masked, self._used = False, []

    @torch.no_grad()
    def remove(self, row: int) -> None:
        """Removes `row`. The last row takes its place; only that one is copied."""
        last = self.rows - 1
        if row != last:
            used = self.lengths[last]
            for buffer in self.keys + self.values:
                buffer[row, :, :used] = buffer[last, :, :used]
            for by_row in (self._lengths, self._previous):
                by_row[row] = by_row[last]
        kept = [last if i == row else i for i in range(last)]
        self.lengths = [self.lengths[i] for i in kept]
        self.hidden = self.hidden[torch.tensor(kept, dtype=torch.int64, device=self._device)]
        self._masked, self._used = False, []
        # Gives back what a long row needed that has ended.
        needed = _aligned(max([FIRST_CAPACITY, *self.lengths]))
        if self._capacity >= 2 * needed + GROWTH:
            self._resize(needed)

    def _positions(self, rows: int) -> Tensor:
        """Position of the next token of each of the first `rows` rows, int64 [rows]."""
        return self._lengths[:rows]

    def _before_smear(self, tokens: Tensor) -> Tensor:
        """Normalised embeddings [B,D] of `tokens` [B], which smear mixes into the tokens after them."""
        return norm(self._model.wte(tokens).to(self._model.dtype))

    def _reserve(self, slots: int) -> None:
        """Grows the cache to at least `slots` slots per row."""
        if slots > self._capacity:
            more = self._capacity + GROWTH if self._grows_slowly else 2 * self._capacity
            self._resize(_aligned(max(slots, more)))

    def _resize(self, capacity: int) -> None:
        used, self._capacity = max(self.lengths, default=0), capacity
        for buffers in (self.keys, self.values):  # one layer at a time, so that never all of them exist twice
            for i, buffer in enumerate(buffers):
                B, G, _, E = buffer.shape
                buffers[i] = buffer.new_zeros(B, G, capacity, E)
                buffers[i][: self.rows, :, :used] = buffer[: self.rows, :, :used]
        self._step_masks, self._masked, self._used = {}, False, []

    def _forget_graphs(self) -> None:
        """Drops the graphs of the step, one of whose tensors has moved. (If keys and values have, the masks are made anew too.)"""
        if self._graphs is not None:
            self._graphs.forget()

    def _assign_slots(self, T: int, single: bool) -> None:
        """Assigns slots to the next T tokens of each row, and makes the masks that their queries need; `single`: for `_step`."""
        start = self._shortest = min(self.lengths)
        self._end = max(self.lengths) + T
        self._reserve(self._end)
        if self._end == start + T and not (single and self._reads_all):
            self._slots, self._masks, self._masked = slice(start, self._end), {}, False
            return
        if single:  # `_step` takes those of its rows
            self._slots = self._row_numbers, self._lengths[:, None]
            if not self._masked:
                self._make_step_masks()
        else:
            self._slots = self._row_numbers[: self.rows], self._lengths[: self.rows, None] + torch.arange(T, device=self._device)
            length, dtype = self._lengths[: self.rows] + T, self._compute_dtype(T)
            self._masks = {w: cache_mask(T, self._capacity, w, length, dtype) for w in set(self._model.windows)}
        self._masked = single

    def _make_step_masks(self) -> None:
        """Makes the masks of each row's newest token."""
        if not self._step_masks:
            shape = (len(self._row_numbers), 1, 1, self._capacity)
            windows = sorted(set(self._model.windows))
            self._step_masks = {w: torch.zeros(shape, dtype=self.dtype, device=self._device) for w in windows}
            self._forget_graphs()
        for window, mask in self._step_masks.items():
            mask[: self.rows] = cache_mask(1, self._capacity, window, self._lengths[: self.rows], self.dtype)

    def _rotary(self, T: int) -> Rotary:
        """Rotation of the next T tokens of each row."""
        if isinstance(self._slots, slice):
            return self._model.rotary(self._slots.start, self._slots.stop)
        return self._rotary_of_rows(T)

    def _rotary_of_rows(self, T: int) -> Rotary:
        positions = self._positions(self.rows)[:, None] + torch.arange(T, device=self._device)
        return rotary_at(positions, self._model.config.head_dim, self._model.dtype)

    def _move_masks(self, newest: Tensor) -> None:
        """Turns the masks [B,1,1,S] of the last token into those of the next one, in the slots `newest` [B]."""
        for window, mask in self._masks.items():
            mask = mask[:, 0, 0]
            mask.scatter_(1, newest[:, None], 0.0)  # a number, not a tensor from the host, which a graph could not read
            if window > 0:
                left = self._leaving(newest, window)[:, None]
                hidden = torch.zeros_like(left, dtype=mask.dtype).masked_fill_(left >= 0, float("-inf"))
                mask.scatter_(1, left.clamp(min=0), hidden)

    def _leaving(self, newest: Tensor, window: int) -> Tensor:
        """Slot of each row [B] that leaves the window when the token in slot `newest` comes; negative if none does."""
        return newest - window

    def _compute_dtype(self, T: int) -> torch.dtype:
        return self.dtype if T == 1 else self._model.dtype


def _aligned(slots: int) -> int:
    return -(-slots // ALIGNMENT) * ALIGNMENT
