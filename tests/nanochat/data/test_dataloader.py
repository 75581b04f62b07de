"""Rows by number: the same bytes however they are read, and the thread that reads ahead."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.data import sources, token_cache
from nanochat.data.dataloader import Prefetcher, RowLoader
from nanochat.data.sources import open_source
from nanochat.data.token_cache import TokenCache, open_tokens
from tests.helpers.byte_tokenizer import ByteTokenizer

BOS = ByteTokenizer().bos_id


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    """Some 60 K tokens in several shards: documents of 1 … 700 letters, each with its number inside."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for name in ("0", "1", "val"):
        texts = [(f"<{name}:{i}>" * 99)[: rng.integers(1, 700)] for i in range(80)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    patch = pytest.MonkeyPatch()
    patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("base")))
    patch.setattr(sources, "PART_BYTES", 1)
    patch.setattr(token_cache, "SHARD_TOKENS", 10_000)
    patch.setattr(token_cache, "BATCH_CHARS", 2_000)
    try:
        opened = open_tokens(open_source(str(folder)), ByteTokenizer(), "train")
    finally:
        patch.undo()
    assert len(opened.shards) >= 4
    return opened


@settings(max_examples=60, deadline=None)
@given(
    packing=st.sampled_from(["bestfit", "stream"]),
    shuffle=st.booleans(),
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    micro_batch=st.sampled_from([1, 2, 4]),
    accumulate=st.integers(1, 3),
    start=st.integers(0, 40),
    seq_len=st.sampled_from([16, 64, 255]),
)
def test_a_step_is_the_same_rows_for_every_split(
    cache: TokenCache, packing: str, shuffle: bool, world_size: int, micro_batch: int, accumulate: int, start: int, seq_len: int
) -> None:
    rows_per_step = world_size * micro_batch * accumulate

    def fresh() -> RowLoader:  # a loader of its own for each read: another process, or the same after a restart
        return RowLoader(cache, seq_len, packing, seed=7, shuffle=shuffle)

    whole = fresh().rows(start * rows_per_step, (start + 3) * rows_per_step).reshape(3, rows_per_step, seq_len + 1)
    for step in range(start, start + 3):
        first = step * rows_per_step
        slices = range(first, first + rows_per_step, micro_batch)  # rank after rank, micro-batch after micro-batch
        read = np.concatenate([fresh().rows(a, a + micro_batch) for a in slices])
        assert len(slices) == world_size * accumulate
        assert read.tobytes() == whole[step - start].tobytes()


@pytest.mark.parametrize("seq_len", [16, 100, 512])
def test_bestfit_rows_are_pieces_that_begin_with_bos(cache: TokenCache, seq_len: int) -> None:
    loader = RowLoader(cache, seq_len, "bestfit", seed=1)
    rows = loader.rows(0, loader.rows_per_epoch)
    assert rows.shape == (loader.rows_per_epoch, seq_len + 1) and rows.dtype == np.int32
    assert (rows[:, 0] == BOS).all()
    tokens = np.concatenate([shard.tokens for shard in cache.shards])
    text = bytes(np.where(tokens == BOS, 10, tokens).astype(np.uint8))  # a line per document
    for row in rows:
        pieces = np.split(row, np.flatnonzero(row == BOS))[1:]
        assert all(bytes(piece[1:].astype(np.uint8)) in text for piece in pieces)


def test_bestfit_reads_nearly_all_of_the_text_once(cache: TokenCache) -> None:
    loader = RowLoader(cache, 64, "bestfit", seed=1)
    rows = loader.rows(0, loader.rows_per_epoch)
    tokens = np.concatenate([shard.tokens for shard in cache.shards])
    read, there = np.bincount(rows[rows != BOS], minlength=BOS), np.bincount(tokens[tokens != BOS], minlength=BOS)
    assert (read <= there).all() and read.sum() > 0.97 * there.sum()


def test_stream_rows_are_the_text_in_order(cache: TokenCache) -> None:
    loader = RowLoader(cache, 100, "stream", seed=3)
    rows = loader.rows(0, loader.rows_per_epoch)
    expected = []
    for shard in cache.shards:
        expected += [shard.tokens[a : a + 101] for a in range(0, len(shard.tokens) - 100, 100)]
    assert (rows == np.array(expected)).all()
    assert (loader.rows(loader.rows_per_epoch, loader.rows_per_epoch + 5) == rows[:5]).all()


def test_an_epoch_is_every_row_once_in_an_order_of_its_own(cache: TokenCache) -> None:
    loader, plain = RowLoader(cache, 64, seed=5), RowLoader(cache, 64, seed=5, shuffle=False)
    n = loader.rows_per_epoch
    epochs = [loader.rows(e * n, (e + 1) * n) for e in range(3)]
    text = plain.rows(0, n)
    for epoch in epochs:
        assert sorted(row.tobytes() for row in epoch) == sorted(row.tobytes() for row in text)
    orders = [text, *epochs, RowLoader(cache, 64, seed=6).rows(0, n)]
    assert len({order.tobytes() for order in orders}) == 5
    assert (loader.rows(n - 7, n + 9) == np.concatenate([epochs[0][-7:], epochs[1][:9]])).all()
    assert (plain.rows(2 * n - 3, 2 * n + 3) == np.concatenate([text[-3:], text[:3]])).all()
    assert [loader.epoch_of(row) for row in (0, n - 1, n, 3 * n)] == [0, 0, 1, 3]
    assert loader.rows(4, 4).shape == (0, 65)


def test_fingerprint_tells_whether_rows_are_the_same(cache: TokenCache) -> None:
    def of(*arguments: object, **options: object) -> str:
        return RowLoader(cache, *arguments, **options).fingerprint

    assert of(64, "bestfit", 1) == of(64, "bestfit", 1)
    assert len({of(64, "bestfit", 1), of(64, "bestfit", 2), of(65, "bestfit", 1), of(64, "stream", 1), of(64, shuffle=False)}) == 5
    assert of(64, "stream", 1) == of(64, "stream", 2)


def test_plans_are_made_once(cache: TokenCache) -> None:
    said: list[str] = []
    RowLoader(cache, 33, say=said.append)
    assert len(said) == 1 and "33" in said[0]
    begin = time.perf_counter()
    RowLoader(cache, 33, say=said.append)
    assert len(said) == 1 and time.perf_counter() - begin < 0.2


@pytest.mark.parametrize("keep", [0, 50, -8])
def test_truncated_plan_is_refused(cache: TokenCache, keep: int) -> None:
    RowLoader(cache, 37)
    path = next(cache.shards[0].folder.glob("*bestfit-37-*.npy"))
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(UserError, match="delete it and it is made again"):
        RowLoader(cache, 37)
    path.unlink()
    RowLoader(cache, 37)
    assert path.read_bytes() == data


def test_plan_of_other_rows_is_refused(cache: TokenCache) -> None:
    paths = []
    for seq_len in (38, 39):
        RowLoader(cache, seq_len)
        paths.append(next(cache.shards[0].folder.glob(f"*bestfit-{seq_len}-*.npy")))
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(UserError, match="not a plan for rows of 38"):
        RowLoader(cache, 38)
    paths[0].unlink()


def test_bad_settings(cache: TokenCache) -> None:
    with pytest.raises(UserError, match="do not fill one row"):
        RowLoader(cache, 10**6)
    with pytest.raises(UserError, match="do not fill one row"):
        RowLoader(cache, 10**6, "stream")
    for arguments in ((0,), (64, "worstfit")):
        with pytest.raises(ValueError):
            RowLoader(cache, *arguments)
    with pytest.raises(ValueError):
        RowLoader(cache, 64).rows(-1, 3)


def test_prefetcher_gives_everything_in_order() -> None:
    with Prefetcher(lambda step: step * step, 5, 200) as items:
        assert list(items) == [step * step for step in range(5, 200)]
        assert list(items) == []
    assert list(Prefetcher(str, 3, 3)) == []


def test_prefetcher_works_ahead_by_its_depth() -> None:
    fetched: list[int] = []
    with Prefetcher(lambda step: fetched.append(step) or step, 0, 100, depth=3) as items:
        assert next(items) == 0
        time.sleep(0.1)
        assert fetched == [0, 1, 2, 3]


def test_errors_come_out_at_their_place() -> None:
    def fetch(step: int) -> int:
        if step == 3:
            raise UserError("shard 3 is gone")
        return step

    with Prefetcher(fetch, 0, 10) as items:
        assert [next(items), next(items), next(items)] == [0, 1, 2]
        with pytest.raises(UserError, match="shard 3"):
            next(items)
        assert list(items) == []


def test_prefetcher_closes_at_once() -> None:
    hang = threading.Event()
    before = threading.active_count()
    items = Prefetcher(lambda step: hang.wait(0.3 if step else 0) or step, 0, 100)
    assert next(items) == 0
    begin = time.perf_counter()
    items.close()
    items.close()
    assert time.perf_counter() - begin < 1 and threading.active_count() <= before
    stuck = Prefetcher(lambda step: hang.wait(10), 0, 5)
    begin = time.perf_counter()
    stuck.close()
    assert time.perf_counter() - begin < 1 and list(stuck) == []
    hang.set()
    with pytest.raises(ValueError):
        Prefetcher(str, 0, 1, depth=0)


@pytest.mark.slow
def test_bench_reaches_its_targets(root: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "bench.loader"], cwd=root, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["tokens_per_s"] >= 20e6 and figures["open_s"] <= 0.2
