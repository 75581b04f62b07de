"""Working Context of keys and values: a set of slots in any order, which an edit changes in place.

An edit writes gists from the tree, and raw blocks from the pool of those that were read recently; only a block that is not there is
read again. Nothing else is computed. The slots in use are always the first ones.

Entries farther than the model was trained for share a distance: their keys are rotated as if they were that near (`_Reach`). Nor do
gists get more attention in all than those of a history of that length would.
Shapes: `W` entries, `L` layers, `G` key heads, `E` head size, `K` block size, `m`, `n` entries or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.layout.layout import Layout
from mc.layout.tiling import Tiling, extended, raw
from mc.memory_model import MemoryModel
from mc.nets.layered_lens import NEWEST
from mc.nets.layered_read import Read, read_behind
from mc.session.block_pool import BlockPool
from mc.session.layered_tree import Packing
from mc.session.tree import MegaContextTree
from mc.session.tree_builder import embed
from nanochat.infer.memory_kv_cache import Slots
from nanochat.model.attention import MemoryEntries
from nanochat.model.block import Rotary, rotary_at, rotate
from nanochat.model.gpt import Embedded

POOL_TOKENS = 8192  # whose keys and values are kept when they are not read any more
THINNED_BY = 1 / 16  # see `_Reach.thinning`
NEIGHBOURS = 2  # blocks before a block that are read with it


class Fresh(NamedTuple):
    """Keys and values [L,G,n,E] of tokens from `begin` on that were just read."""

    begin: int
    keys: Tensor
    values: Tensor


class Placed(NamedTuple):
    """Entries as slots have them: keys, rotated by their positions, and values [L,G,m,E], and biases [L,G,m]."""

    keys: Tensor
    values: Tensor
    bias: Tensor


class _Reach:
    """Positions of entries: their own up to the distance the model was trained for, beyond that a shared distance.

    As the history grows, entries drift beyond that distance, until `advance` places them anew.
    """

    def __init__(self, trained: int) -> None:
        self._trained, self._drift = trained, max(1, trained // 8)
        self.distance = trained - self._drift
        self._frame = self.distance  # length of the history that the distance counts from

    def shift(self, start: np.ndarray, frame: int | None = None) -> np.ndarray:
        """Tokens by which nodes that begin at `start` are nearer than they are."""
        return np.maximum(0, (self._frame if frame is None else frame) - self.distance - start)

    def thinning(self, frame: int | None = None) -> float:
        """Logarithm that biases of gists are less by, in steps: slots in bf16 are too coarse for many small changes."""
        return max(0, math.floor(math.log((self._frame if frame is None else max(1, frame)) / self._trained) / THINNED_BY)) * THINNED_BY

    def is_due(self, length: int) -> bool:
        """True if entries must be placed anew for a history of `length` tokens."""
        return length > self._frame + self._drift

    def advance(self, length: int) -> None:
        """Counts the distance from `length` on, if it is due."""
        if self.is_due(length):
            self._frame = length


class LayeredContext:
    """Entries of `tree` in slots of their own or of a cache, at most `most`."""

    def __init__(self, memory: MemoryModel, tree: MegaContextTree, packing: Packing, most: int) -> None:
        self._memory, self._tree, self._packing, self._most = memory, tree, packing, most
        self.tiling = raw(0, 0)
        self.slot = np.zeros(0, dtype=np.int64)  # of each entry
        self.queries: Tensor | None = None  # of the newest tokens when all was read anew, [L,H,·,E]
        self.changes = 0  # that have moved entries between slots
        self.reach = _Reach(memory.model.config.max_seq_len)
        config, model = memory.model.config, memory.model
        self._L, self._G, self._E = config.depth, config.key_heads, config.head_dim
        self._device, self._dtype = memory.device, model.dtype
        self.slots = self._own_slots()
        K = memory.config.block_size
        empty = torch.zeros(self._L, self._G, 0, K, self._E, dtype=model.dtype, device=self._device)
        self.pool = BlockPool(max(1, POOL_TOKENS // K), empty)
        self._spans = [tree.spec.geometry.span(level) for level in range(tree.spec.max_lod + 1)]
        self._node_spans = np.array([K, *self._spans[1:]])  # by level; the node of a raw token is its block
        self._piece = max(K, config.max_seq_len // 2 // K * K)

    def __len__(self) -> int:
        """Number of entries, W."""
        return len(self.tiling.lod)

    @property
    def layout(self) -> Layout:
        """The layout as a batch of one row, on the CPU."""
        return self.tiling.layout()

    @property
    def piece(self) -> int:
        """Tokens that are read at once."""
        return self._piece

    def nodes(self, tiling: Tiling) -> np.ndarray:
        """First token of the node or block that each entry belongs to, int64 [W]."""
        span = self._node_spans[tiling.lod]
        return tiling.start // span * span

    def move_to(self, slots: Slots | None, width: int) -> None:
        """Moves the first `width` slots to other ones; None = own ones."""
        before, self.slots = self.slots, slots or self._own_slots()
        for mine, theirs in zip(self.slots, before, strict=True):
            for new, old in zip(mine, theirs, strict=True):
                new[:, :width] = old[:, :width]

    def accept(self, tokens: int) -> None:
        """Makes entries of the `tokens` raw ones that a cache has written in the slots after the last entry."""
        W, end = len(self), int(self.tiling.start[-1]) + 1
        self.tiling = extended(self.tiling, end, end + tokens)
        self.slot = np.concatenate([self.slot, np.arange(W, W + tokens)])

    def written(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values [L,G,n,E] in the slots `first … end−1`."""
        keys, values = (torch.stack([part[:, first:end] for part in parts]) for parts in self.slots[:2])
        return keys.to(self._dtype), values.to(self._dtype)

    def change(self, tiling: Tiling, source: np.ndarray, fresh: Fresh | None = None) -> int:
        """Changes to `tiling`, whose entry i was entry `source[i]`, or is new if that is −1. Returns the first entry if any changed.

        New raw entries are in `fresh`, in the pool, or read again.
        """
        if tiling is self.tiling:
            return len(self)
        W, kept = len(tiling.lod), source >= 0
        if len(self) == W and kept.all() and (source == np.arange(W)).all():
            return W
        self.changes += 1
        if W and not kept.any() and fresh is None:
            return self._rebuild(tiling)
        slot = np.where(kept, self.slot[source] if len(self) else -1, -1)
        moves = slot >= W
        free = np.ones(W, dtype=bool)
        free[slot[kept & ~moves]] = False
        free = np.flatnonzero(free)
        new, moved = np.flatnonzero(~kept), np.flatnonzero(moves)
        made = list(self._made(tiling.some(new), fresh))
        if len(moved):
            self._move(slot[moved], free[len(new) :])
            slot[moved] = free[len(new) :]
        if len(new):
            slot[new] = self._filled(free[: len(new)], made)
        for part in self.slots.bias if len(self) > W else ():  # of slots that are free now
            part[:, W : len(self)] = 0
        self.tiling, self.slot = tiling, slot
        return 0

    def advance(self, length: int) -> None:
        """Places far entries anew if a history of `length` tokens makes it necessary."""
        if not self.reach.is_due(length):
            return
        before, thinning = self.reach.shift(starts := self.nodes(self.tiling)), self.reach.thinning()
        self.reach.advance(length)
        delta, is_gist = self.reach.shift(starts) - before, self.tiling.lod > 0
        if len(moved := np.flatnonzero((delta != 0) & ~is_gist)):
            index = self._index(self.slot[moved])
            keys = self._turned(torch.stack([part.index_select(1, index) for part in self.slots.keys]), delta[moved])
            for layer, part in enumerate(self.slots.keys):
                part.index_copy_(1, index, keys[layer])
        # Gists, which stay for long, come from the tree, so that no errors add up.
        moved = np.flatnonzero(is_gist & ((delta != 0) | (self.reach.thinning() != thinning)))
        for at, placed in self._made(self.tiling.some(moved), None):
            self._write(self.slot[moved[at]], *placed)

    @torch.no_grad()
    def read(self, begin: int, tokens: Tensor, lead: int = 0, again: bool = False) -> Read:
        """Reads `tokens`, int64 [n], which begin at token `begin` of the history, behind the entries before them.

        Returns the keys and values of all but the first `lead`. If they are read `again`, entries are as far as they were then.
        """
        model = self._memory.model
        positions = torch.arange(begin, begin + len(tokens), device=self._device)
        embedded = Embedded(*(part[None] for part in embed(model, self._tree, begin, tokens)))
        rotary = rotary_at(positions, self._E, model.dtype)
        got = read_behind(model, embedded, rotary, self._before(begin, again), NEWEST)
        return got._replace(keys=got.keys[:, :, lead:], values=got.values[:, :, lead:])

    def reread_newest(self) -> Read:
        """Reads the newest token anew, which is the last entry, and replaces it."""
        at = int(self.tiling.start[-1])
        got = self.read(at, self._tree.tokens(at, at + 1))
        self._write(self.slot[-1:], got.keys, got.values, None)
        return got

    def keep(self, blocks: range, keys: Tensor, values: Tensor) -> None:
        """Keeps complete blocks in the pool: keys and values [L,G,n,E], rotated by their own positions."""
        self.pool.put(blocks, *(part.unflatten(2, (len(blocks), -1)) for part in (keys, values)))

    def gists(self, level: int, nodes: np.ndarray) -> Placed:
        """Gists of N nodes, m = N·S."""
        packed = self._tree.gists(level, torch.from_numpy(nodes)).to(self._device)
        gists = self._packing.unpacked(packed, self._dtype)  # (L, N, S, G, ·)
        start = nodes * self._spans[level]
        keys, values, bias = (part.movedim(3, 1) for part in gists)
        placed = Placed(self._turned(keys, (start + self.reach.shift(start))[:, None]), values, bias - self.reach.thinning())
        return Placed(*(part.flatten(2, 3) for part in placed))

    def _own_slots(self) -> Slots:
        shape = (self._G, self._most, self._E)
        keys, values = ([torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(self._L)] for _ in range(2))
        return Slots(keys, values, [torch.zeros(shape[:2], device=self._device) for _ in range(self._L)])

    def _index(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(self._device)

    def _turned(self, keys: Tensor, positions: np.ndarray) -> Tensor:
        """Keys [..., E] moved by `positions`, which broadcast to the axes before the last."""
        rotary = rotary_at(self._index(positions.flatten()), self._E, keys.dtype)
        return rotate(keys, Rotary(*(part.view(*positions.shape, -1) for part in rotary)))

    def _nearer(self, keys: Tensor, blocks: np.ndarray) -> Tensor:
        """Keys [..., E] of tokens of `blocks`, which broadcast to the axes before the last, as near as the reach has them."""
        shift = self.reach.shift(blocks * self._spans[1])
        return self._turned(keys, shift) if shift.any() else keys

    def _filled(self, places: np.ndarray, made: list[tuple[np.ndarray, Placed]]) -> np.ndarray:
        """Writes entries, in the parts that `_made` gave, to slots; returns the slot of each."""
        slot = np.empty(len(places), dtype=np.int64)
        slot[np.concatenate([at for at, _ in made])] = places
        self._write(places, *(torch.cat(each, dim=2) for each in zip(*(placed for _, placed in made), strict=True)))
        return slot

    def _write(self, places: np.ndarray, keys: Tensor, values: Tensor, bias: Tensor | None) -> None:
        """Writes entries [L,G,m,·] to slots; without `bias` it stays."""
        index = self._index(places)
        for parts, new in zip(self.slots, (keys, values, bias), strict=True):
            if new is not None:
                for part, layer in zip(parts, new.to(parts[0].dtype), strict=True):
                    part.index_copy_(1, index, layer)

    def _move(self, before: np.ndarray, after: np.ndarray) -> None:
        """Moves slots to free ones."""
        old, new = self._index(before), self._index(after)
        for parts in self.slots:
            for part in parts:
                part.index_copy_(1, new, part.index_select(1, old))

    def _made(self, new: Tiling, fresh: Fresh | None) -> Iterator[tuple[np.ndarray, Placed]]:
        """Yields the new entries in parts: their indices, and keys, values and biases [L,G,m,·]."""
        for level in np.unique(new.lod[new.lod > 0]).tolist():
            at = np.flatnonzero(new.lod == level)
            yield at, self.gists(level, np.unique(new.start[at] // self._spans[level]))
        raw = new.lod == 0
        if fresh is not None:
            at = np.flatnonzero(raw & (new.start >= fresh.begin))
            index = self._index(new.start[at] - fresh.begin)
            if len(at):
                keys = self._nearer(fresh.keys.index_select(2, index), new.start[at] // self._spans[1])
                yield at, _as_raw(keys, fresh.values.index_select(2, index))
            raw &= new.start < fresh.begin
        if (at := np.flatnonzero(raw)).size:
            K = self._spans[1]
            blocks = np.unique(new.start[at] // K)
            for block in blocks.tolist():
                if block not in self.pool:
                    got = self._read_run(block * K, (block + 1) * K)
                    self.keep(range(block, block + 1), got.keys, got.values)
            keys, values = self.pool.get(blocks.tolist())
            yield at, _as_raw(self._nearer(keys, blocks[:, None]).flatten(2, 3), values.flatten(2, 3))

    def _read_run(self, begin: int, end: int) -> Read:
        """Reads the tokens `begin … end−1` anew, with the neighbours before them if these are not raw."""
        before = self.tiling.start.searchsorted(begin) - 1
        is_raw = before >= 0 and self.tiling.lod[before] == 0 and self.tiling.start[before] == begin - 1
        lead = 0 if is_raw else min(begin, NEIGHBOURS * self._spans[1])
        return self.read(begin - lead, self._tree.tokens(begin - lead, end), lead, again=True)

    def _rebuild(self, tiling: Tiling) -> int:
        """Lays out `tiling` from the tree alone: first the gists, then the raw tokens, run by run, behind what comes before."""
        self.tiling, self.slot = raw(0, 0), self.slot[:0]
        self.reach.advance(self._tree.length)
        present = tiling.lod > 0
        if present.any():
            gists = tiling.some(present)
            made = list(self._made(gists, None))
            self.tiling, self.slot = gists, self._filled(np.arange(len(gists.lod)), made)
        for begin, end in _runs(tiling, self._piece):
            got, index = self._read_run(begin, end), present.cumsum() - 1
            now = present | ((tiling.lod == 0) & (tiling.start >= begin) & (tiling.start < end))
            source = np.where(present, index, -1)[now]
            K = self._spans[1]
            first, last = -(-begin // K), end // K
            if last > first:
                inside = slice(first * K - begin, last * K - begin)
                self.keep(range(first, last), got.keys[:, :, inside], got.values[:, :, inside])
            self.change(tiling.some(now), source, Fresh(begin, got.keys, got.values))
            present, self.queries = now, got.queries
        return 0

    def _before(self, begin: int, again: bool) -> list[MemoryEntries] | None:
        """The entries that end at or before token `begin`, as the layers read them; with `again`, as far as they were at that token."""
        lod, start = self.tiling
        ends = np.where(lod > 0, self.nodes(self.tiling) + self._node_spans[lod], start + 1)
        seen = np.flatnonzero(ends <= begin)
        if not len(seen):
            return None
        whole = len(seen) == len(self)
        index = None if whole else self._index(self.slot[seen])
        parts = [[part[:, : len(seen)] if whole else part.index_select(1, index) for part in parts] for parts in self.slots]
        if again:
            self._move_back(parts, self.slot.argsort() if whole else seen, begin)
        return [
            MemoryEntries(keys.to(self._dtype).transpose(0, 1)[None], values.to(self._dtype).transpose(0, 1)[None], bias.float()[None])
            for keys, values, bias in zip(*parts, strict=True)
        ]

    def _move_back(self, parts: list[list[Tensor]], entries: np.ndarray, length: int) -> None:
        """Changes `parts`, keys, values and biases of `entries` by layer, to those of a history of `length` tokens."""
        tiling = self.tiling.some(entries)
        nodes = self.nodes(tiling)
        turns = self.reach.shift(nodes, length) - self.reach.shift(nodes)
        if turns.any():
            parts[0] = list(self._turned(torch.stack(parts[0]), turns))
        if thinner := self.reach.thinning() - self.reach.thinning(length):
            more = self._index(np.where(tiling.lod > 0, np.float32(thinner), np.float32(0)))
            parts[2] = [part + more for part in parts[2]]


def _as_raw(keys: Tensor, values: Tensor) -> Placed:
    return Placed(keys, values, keys.new_zeros(keys.shape[:-1], dtype=torch.float32))


def _runs(tiling: Tiling, most: int) -> Iterator[tuple[int, int]]:
    """Yields the half-open ranges of consecutive raw tokens, cut to `most`, in order."""
    start = tiling.start[tiling.lod == 0]
    for run in np.split(start, np.flatnonzero(np.diff(start) != 1) + 1):
        for begin in range(0, len(run), most):
            part = run[begin : begin + most]
            yield int(part[0]), int(part[-1]) + 1
