"""Packing plans against a plain greedy packer, and what every plan must keep."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.packing import plan_bestfit

documents = st.lists(st.integers(0, 40), max_size=80)  # tokens after the BOS


def offsets_of(contents: list[int]) -> np.ndarray:
    return np.cumsum([0, *(n + 1 for n in contents)])


def rows_of(plan: np.ndarray, seq_len: int) -> list[list[tuple[int, int]]]:
    """(source, size) of the pieces of each row."""
    rows: list[list[tuple[int, int]]] = [[] for _ in range(plan[1, -1] // (seq_len + 1))]
    for source, begin, end in zip(plan[0], plan[1], plan[1, 1:], strict=False):
        rows[begin // (seq_len + 1)].append((int(source), int(end - begin)))
    return rows


def greedy_rows(contents: list[int], seq_len: int) -> Counter[tuple[int, ...]]:
    """The sizes in each row, packed one piece at a time from plain lists."""
    pieces = [min(seq_len, n - k) + 1 for n in contents for k in range(0, n, seq_len)]
    rows: Counter[tuple[int, ...]] = Counter()
    while pieces:
        free, row = seq_len + 1, []
        while free > 1 and pieces:
            fitting = [size for size in pieces if size <= free]
            taken = max(fitting) if fitting else min(pieces)
            pieces.remove(taken)
            row.append(min(taken, free))
            free -= row[-1]
        if free <= 1:
            rows[tuple(row + [1] * free)] += 1
    return rows


@settings(max_examples=300)
@given(documents, st.integers(1, 24))
def test_rows_are_those_of_the_greedy_packer(contents: list[int], seq_len: int) -> None:
    plan = plan_bestfit(offsets_of(contents), seq_len)
    assert Counter(tuple(size for _, size in row) for row in rows_of(plan, seq_len)) == greedy_rows(contents, seq_len)


@settings(max_examples=300)
@given(documents, st.integers(1, 24))
def test_pieces_are_stretches_of_documents_each_used_once(contents: list[int], seq_len: int) -> None:
    offsets = offsets_of(contents)
    plan = plan_bestfit(offsets, seq_len)
    used: list[int] = []
    for row in rows_of(plan, seq_len):
        assert sum(size for _, size in row) == seq_len + 1
        for source, size in row:
            document = int(np.searchsorted(offsets, source, side="right")) - 1
            assert (source - offsets[document]) % seq_len == 0, "a piece begins at a multiple of seq_len"
            assert source + size <= offsets[document + 1], "a piece stays in its document"
            used += range(source + 1, source + size)
    assert len(set(used)) == len(used)


def test_rows_come_in_the_order_of_the_text() -> None:
    contents = [5, 30, 9, 9, 4, 10, 2, 30]
    plan = plan_bestfit(offsets_of(contents), 10)
    first = [row[0][0] for row in rows_of(plan, 10)]
    assert first == sorted(first)


def test_golden_plan() -> None:
    """Another plan for the same text is another order of the data: raise `packing.VERSION` with it."""
    plan = plan_bestfit(offsets_of([3, 7, 1, 0, 12, 2, 5, 1, 4]), 5)
    assert plan.dtype == np.int64
    assert rows_of(plan, 5) == [
        [(0, 4), (12, 2)],
        [(4, 6)],
        [(9, 3), (25, 3)],
        [(15, 6)],
        [(20, 6)],
        [(28, 3), (37, 2), (12, 1)],
        [(31, 6)],
        [(39, 5), (12, 1)],
    ]


def test_large_plan_is_quick() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4.5, 1.2, 100_000).astype(np.int64) + 1
    offsets = np.cumsum([0, *lengths])
    begin = time.perf_counter()
    plan = plan_bestfit(offsets, 512)
    assert time.perf_counter() - begin < 2, f"{offsets[-1] / 1e6:.0f} M tokens"
    placed = plan[1, -1] - (plan.shape[1] - 1)
    assert placed / (offsets[-1] - len(lengths)) > 0.99
