"""Rows with addresses: what a step reads is a pure function of the data, the seed and the row number.

`R` rows per step, `T` = seq_len. Step `s` is rows `[s·R, (s+1)·R)`, of which ranks and micro-batches take slices. So the tokens
of a step depend neither on the number of processes nor on the batch split, and the whole state of the loader is the step.
Past the last row the next epoch begins, in another order.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

import numpy as np
from filelock import FileLock

from nanochat.common import UserError, atomic_write, ensure_dir
from nanochat.data.packing import VERSION, PackingPlan, plan_bestfit
from nanochat.data.rows import Loader
from nanochat.data.token_cache import TokenCache

Packing = Literal["bestfit", "stream"]
Item = TypeVar("Item")

_BLOCK = 4096  # rows whose order is worked out together, for calls that read a few rows each
_ROUNDS = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_ONE = np.uint64(1)


class RowLoader(Loader):
    """All rows of a split, by number.

    `bestfit`: every row and every piece in it begins with BOS (`packing.plan_bestfit`); the rows of an epoch come in an order
    given by the seed and the epoch, or with `shuffle=False` (validation) in the order of the text. `stream`: row `r` is tokens
    `[r·T, (r+1)·T]` of a shard, in the order of the text always. The plan of a shard is made once and kept beside it.
    Raises `UserError` where the split has not one whole row or a kept plan is damaged.
    """

    def __init__(
        self,
        shards: TokenCache,
        seq_len: int,
        packing: Packing = "bestfit",
        seed: int = 0,
        shuffle: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        if seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, not {seq_len}")
        if packing not in ("bestfit", "stream"):
            raise ValueError(f"packing must be bestfit or stream, not {packing!r}")
        self.seq_len, self.packing, self.seed = seq_len, packing, seed
        self.shuffle = shuffle and packing == "bestfit"
        self._bos_id = shards.bos_id
        self._shards = shards.shards
        self._plans = _open_plans(shards, seq_len, say) if packing == "bestfit" else None
        if self._plans is None:
            rows = [(len(shard.tokens) - 1) // seq_len for shard in self._shards]
        else:
            rows = [int(plan[1, -1]) // (seq_len + 1) for plan in self._plans]
        self._first_row = np.cumsum([0, *rows])  # int64 [shards + 1]
        self.rows_per_epoch = int(self._first_row[-1])
        if not self.rows_per_epoch:
            raise UserError(f"{shards.name}: {shards.tokens:,} tokens do not fill one row of {seq_len}; use more text or shorter rows")
        self._order = lru_cache(maxsize=4)(self._block)
        order = (VERSION, packing, seq_len, seed if self.shuffle else None)
        self.fingerprint = hashlib.sha256(repr((shards.fingerprint, order)).encode()).hexdigest()[:16]

    def epoch_of(self, row: int) -> int:
        """The epoch that row number `row` belongs to, from 0."""
        return row // self.rows_per_epoch

    def rows(self, a: int, b: int) -> np.ndarray:
        """Rows `a … b-1` as int32 [b-a, T+1]: inputs are `[:, :-1]`, targets `[:, 1:]`."""
        if not 0 <= a <= b:
            raise ValueError(f"rows {a} … {b} are no range")
        places = self._places(a, b)
        shard_of = np.searchsorted(self._first_row, places, side="right") - 1
        out = np.empty((b - a, self.seq_len + 1), np.int32)
        for index in np.unique(shard_of):
            here = np.flatnonzero(shard_of == index)
            out[here] = self._gather(index, places[here] - self._first_row[index])
        return out

    def _places(self, a: int, b: int) -> np.ndarray:
        """Where rows `a … b-1` stand in the order of the text, int64 [b-a]."""
        parts = [np.empty(0, np.int64)]
        while a < b:
            epoch, row = divmod(a, self.rows_per_epoch)
            block, begin = divmod(row, _BLOCK)
            parts.append(self._order(epoch, block)[begin : begin + b - a])
            a += len(parts[-1])
        return np.concatenate(parts)

    def _block(self, epoch: int, block: int) -> np.ndarray:
        rows = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.rows_per_epoch))
        return permute(rows, self.rows_per_epoch, f"{self.seed}:{epoch}") if self.shuffle else rows

    def _gather(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Rows of one shard, in its dtype, [rows, T+1]."""
        tokens, width = self._shards[index].tokens, self.seq_len + 1
        if self._plans is None:
            return tokens[(rows * self.seq_len)[:, None] + np.arange(width)]
        source, target = self._plans[index]
        first = np.searchsorted(target, rows * width)
        count = np.searchsorted(target, (rows + 1) * width) - first  # pieces per row
        begin = np.cumsum(count) - count
        piece = np.arange(count.sum()) + np.repeat(first - begin, count)
        length = target[piece + 1] - target[piece]
        start = np.cumsum(length) - length
        flat = tokens[np.arange(len(rows) * width) + np.repeat(source[piece] - start, length)]
        flat[start] = self._bos_id
        return flat.reshape(len(rows), width)


class Prefetcher(Generic[Item]):
    """Iterates over `fetch(start), …, fetch(stop - 1)`, of which up to `depth` are made ahead by a thread.

    An exception in `fetch` comes out of the iteration at its place. `close`, or leaving the `with` block, ends the thread after
    the call it is in; a call that hangs is left behind after `CLOSE_SECONDS` and does not keep the process alive.
    """

    CLOSE_SECONDS = 0.5

    def __init__(self, fetch: Callable[[int], Item], start: int, stop: int, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        self._fetch, self._depth = fetch, depth
        self._ready: deque[Item] = deque()
        self._error: BaseException | None = None
        self._left = max(stop - start, 0)  # items not yet handed out
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, args=(start, stop), name="prefetch", daemon=True)
        self._thread.start()

    def _work(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                if self._closed:
                    return
            try:
                item = self._fetch(step)
            except BaseException as error:  # handed to the consumer, whatever it is
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._ready.append(item)
                self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error or self._closed or not self._left)
            if self._closed or not self._left:
                raise StopIteration
            if self._ready:
                self._left -= 1
                self._changed.notify_all()
                return self._ready.popleft()
            self._left = 0
            raise self._error

    def close(self) -> None:
        """Stops fetching; the iteration ends. May be called more than once."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(self.CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open_plans(shards: TokenCache, seq_len: int, say: Callable[[str], None]) -> list[PackingPlan]:
    begin, made = time.monotonic(), 0
    plans = []
    for shard in shards.shards:
        path = shard.folder / f"{shard.name}.bestfit-{seq_len}-v{VERSION}.npy"
        if not path.exists():
            ensure_dir(shard.folder)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    made += 1
                    buffer = io.BytesIO()
                    np.save(buffer, plan_bestfit(shard.offsets, seq_len), allow_pickle=False)
                    atomic_write(path, buffer.getvalue())
        plans.append(_open_plan(path, seq_len))
    if made:
        placed = sum(int(plan[1, -1]) - (plan.shape[1] - 1) for plan in plans)  # without a BOS per piece
        cropped = 1 - placed / max(shards.tokens - shards.documents, 1)
        rows = sum(int(plan[1, -1]) for plan in plans) // (seq_len + 1)
        seconds = time.monotonic() - begin
        say(f"packed {shards.name} into {rows:,} rows of {seq_len}, {cropped:.2%} of the text cropped, in {seconds:.1f} s")
    return plans


def _open_plan(path: Path, seq_len: int) -> PackingPlan:
    try:
        plan = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and it is made again") from error
    if plan.ndim != 2 or len(plan) != 2 or plan[1, -1] % (seq_len + 1):
        raise UserError(f"{path} is damaged (not a plan for rows of {seq_len}); delete it and it is made again")
    return plan


def permute(numbers: np.ndarray, size: int, key: str) -> np.ndarray:
    """A permutation of `0 … size-1`, different for each `key`, at `numbers` (int64): no table, no state, no library's generator.

    A Feistel network over the next power of two; what falls outside is sent through again until it is inside (cycle walking).
    """
    bits = (size - 1).bit_length()
    low, high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest(), "<u8").astype(np.uint64)
    out = numbers.astype(np.uint64)
    outside = np.arange(len(out))
    while len(outside):
        x = out[outside]
        for round_key in keys:
            # The halves change places each round; with an odd number of bits their widths do too.
            left, right = x >> low, x & ((_ONE << low) - _ONE)
            mixed = (right ^ round_key) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left ^= (mixed >> np.uint64(32)) & ((_ONE << high) - _ONE)
            x = (right << high) | left
            low, high = high, low
        out[outside] = x
        outside = outside[x >= size]
    return out.astype(np.int64)
