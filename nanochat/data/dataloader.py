"""Row loader for pretraining: a row depends on the data, the seed and its number alone.

Step `s` of `R` rows reads rows `[s·R, (s+1)·R)`, of which ranks and micro-batches take slices. So the tokens of a step depend
neither on the number of processes nor on the micro-batch size, and the only state of the loader is the step. After the last row
the next epoch begins, in another order.

Shapes: `T` = seq_len.
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

from nanochat.common import UserError, atomic_write, digest
from nanochat.data.make_once import make_once
from nanochat.data.packing import VERSION, PackingPlan, plan_bestfit, ranges
from nanochat.data.rows import Loader
from nanochat.data.token_cache import TokenCache, TokenShard

Packing = Literal["bestfit", "stream"]
Item = TypeVar("Item")

_BLOCK = 4096  # rows permuted together, because most calls read only a few


class RowLoader(Loader):
    """All rows of a split. Raises `UserError` if the split does not fill one row or a packing plan is damaged.

    `bestfit`: every row and every piece in it begins with BOS (`packing.plan_bestfit`); the seed and the epoch give the order of
    the rows, `shuffle=False` (validation) keeps that of the text. The plan of a shard is made once and kept next to it.
    `stream`: row `r` is tokens `[r·T, (r+1)·T]` of a shard, always in the order of the text.
    """

    def __init__(
        self,
        cache: TokenCache,
        seq_len: int,
        packing: Packing = "bestfit",
        seed: int = 0,
        shuffle: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        if seq_len < 1:
            raise ValueError(f"invalid seq_len {seq_len}: must be at least 1")
        if packing not in ("bestfit", "stream"):
            raise ValueError(f"invalid packing {packing!r}: expected bestfit or stream")
        self.seq_len, self.packing, self.seed = seq_len, packing, seed
        self.shuffle = shuffle and packing == "bestfit"
        self._bos_id, self._shards = cache.bos_id, cache.shards
        self._plans = _open_plans(cache, seq_len, say) if packing == "bestfit" else None
        if self._plans is None:
            rows = [(len(shard.tokens) - 1) // seq_len for shard in self._shards]
        else:
            rows = [int(plan[1, -1]) // (seq_len + 1) for plan in self._plans]
        self._first_row = np.cumsum([0, *rows])  # int64 [shards + 1]
        self.rows_per_epoch = int(self._first_row[-1])
        if not self.rows_per_epoch:
            raise UserError(f"{cache.name}: {cache.tokens:,} tokens do not fill one row of {seq_len}; use more text or shorter rows")
        self._order = lru_cache(maxsize=4)(self._block)
        self.fingerprint = digest(cache.fingerprint, (VERSION, packing, seq_len, seed if self.shuffle else None))

    def rows(self, a: int, b: int) -> np.ndarray:
        """See `Loader`; no token is masked."""
        if not 0 <= a <= b:
            raise ValueError(f"invalid row range {a}..{b}")
        places = self._places(a, b)
        shard_of = np.searchsorted(self._first_row, places, side="right") - 1
        out = np.empty((b - a, self.seq_len + 1), np.int32)
        for index in np.unique(shard_of):
            here = np.flatnonzero(shard_of == index)
            out[here] = self._gather(index, places[here] - self._first_row[index])
        return out

    def _places(self, a: int, b: int) -> np.ndarray:
        """Places of rows `a … b-1` in the order of the text, int64 [b-a]."""
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
        piece = ranges(first, np.searchsorted(target, (rows + 1) * width) - first)
        length = target[piece + 1] - target[piece]
        flat = tokens[ranges(source[piece], length)]
        flat[np.cumsum(length) - length] = self._bos_id
        return flat.reshape(len(rows), width)


def _open_plans(cache: TokenCache, seq_len: int, say: Callable[[str], None]) -> list[PackingPlan]:
    begin, made, plans = time.monotonic(), 0, []
    for shard in cache.shards:
        path = shard.folder / f"{shard.name}.bestfit-{seq_len}-v{VERSION}.npy"
        made += make_once(path, lambda path=path, shard=shard: _write_plan(path, shard, seq_len))
        plans.append(_open_plan(path, seq_len))
    if made:
        placed = sum(int(plan[1, -1]) - (plan.shape[1] - 1) for plan in plans)  # without a BOS per piece
        cropped = 1 - placed / max(cache.tokens - cache.documents, 1)
        rows = sum(int(plan[1, -1]) for plan in plans) // (seq_len + 1)
        seconds = time.monotonic() - begin
        say(f"packed {cache.name} into {rows:,} rows of {seq_len}, {cropped:.2%} of the text cropped, in {seconds:.1f} s")
    return plans


def _write_plan(path: Path, shard: TokenShard, seq_len: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, plan_bestfit(shard.offsets, seq_len), allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def _open_plan(path: Path, seq_len: int) -> PackingPlan:
    try:
        plan = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        if plan.ndim != 2 or len(plan) != 2 or plan[1, -1] % (seq_len + 1):
            raise ValueError(f"not a plan for rows of {seq_len}")
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and it is made again") from error
    return plan


_ROUNDS = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_ONE = np.uint64(1)


def permute(numbers: np.ndarray, size: int, key: str) -> np.ndarray:
    """A permutation of `0 … size-1`, different for each `key`, at `numbers` (int64): no table, no state, no library's generator.

    A Feistel network over the next power of two; values of `size` or more are permuted again until they are below (cycle walking).
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


class Prefetcher(Generic[Item]):
    """Iterates over `fetch(start), …, fetch(stop - 1)`; a thread computes up to `depth` of them ahead.

    An exception in `fetch` is raised at its place in the iteration. `close`, or leaving the `with` block, ends the thread after
    its current call; a call that hangs is abandoned after `CLOSE_SECONDS` and does not keep the process alive.
    """

    CLOSE_SECONDS = 0.5

    def __init__(self, fetch: Callable[[int], Item], start: int, stop: int, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"invalid depth {depth}: must be at least 1")
        self._fetch, self._depth = fetch, depth
        self._ready: deque[tuple[Item | None, BaseException | None]] = deque()
        self._left = max(stop - start, 0)  # items not handed out yet
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
            item = error = None
            try:
                item = self._fetch(step)
            except BaseException as caught:  # handed to the consumer, whatever it is
                error = caught
            with self._changed:
                self._ready.append((item, error))
                self._changed.notify_all()
            if error is not None:
                return

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed or not self._left)
            if self._closed or not self._left:
                raise StopIteration
            item, error = self._ready.popleft()
            self._left = self._left - 1 if error is None else 0
            self._changed.notify_all()
        if error is not None:
            raise error
        return item

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
