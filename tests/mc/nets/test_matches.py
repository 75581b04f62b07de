"""Matches: the index finds what comparing all tokens of a row finds, in histories that come in pieces and grow.

Shapes as in `mc.nets.matches`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mc.nets import matches
from mc.nets.matches import FIRST_ROOM, LONGEST, MOST, STEPS, MatchIndex, row_matches

Found = list[tuple[int, int, int]]  # query, place and length of matches


def by_definition(tokens: list[int], first: int, end: int, far: int) -> Found:
    """Matches of the queries `first … end−1` among the first `far` tokens, from the definition."""
    found = []
    for q in range(first, end):
        mine = []
        for m in range(1, min(far, q + 1)):
            length = 0
            while length < min(LONGEST, m) and tokens[m - 1 - length] == tokens[q - length]:
                length += 1
            mine += [(length, m)] if length else []
        found += [(q - first, m, length) for length, m in sorted(mine)[-MOST:]]
    return sorted(found)


def in_rows(tokens: list[int], first: int, end: int, far: int) -> Found:
    lengths = row_matches(torch.tensor([tokens[::-1], tokens]), first, end, far)  # the second of two different rows
    assert lengths.shape == (2, end - first, far)
    query, place = lengths[1].nonzero().unbind(1)
    return list(zip(query.tolist(), place.tolist(), lengths[1, query, place].tolist(), strict=True))


def index_of(tokens: Sequence[int], pieces: Sequence[int] = ()) -> MatchIndex:
    index, begin = MatchIndex(), 0
    for end in (*np.cumsum(pieces, dtype=int).tolist(), len(tokens)):
        index.add(np.array(tokens[begin:end], dtype=np.int64))
        begin = end
    assert index.length == len(tokens)
    return index


def found_by(index: MatchIndex, tokens: list[int], first: int, end: int) -> Found:
    newest = np.array(tokens[max(0, first - LONGEST + 1) : end])
    return sorted(zip(*(part.tolist() for part in index.find(newest, end - first, end)), strict=True))


def some_tokens(length: int, vocab: int, seed: int) -> list[int]:
    """Random tokens, of which parts are repeated."""
    random = np.random.default_rng(seed)
    tokens = random.integers(vocab, size=length)
    for _ in range(length // 12):
        begin, to, count = random.integers(length - 10, size=2).tolist() + [int(random.integers(1, 10))]
        tokens[to : to + count] = tokens[begin : begin + count]
    return tokens.tolist()


@pytest.mark.parametrize("vocab", [1, 2, 7, 60, 50_000])
@pytest.mark.parametrize("length", [70, 300])
def test_the_index_finds_what_a_row_shows(vocab: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it looks at all occurrences; with far tokens before all queries, and up to the last of them."""
    monkeypatch.setattr(matches, "STEPS", 2 * length)
    tokens = some_tokens(length, vocab, vocab)
    for first, far in ((length - 20, length - 30), (length - 20, length - 20), (length - 32, length - 3), (0, length)):
        expected = by_definition(tokens, first, length, far)
        assert expected or vocab > 60
        assert in_rows(tokens, first, length, far) == expected
        for pieces in ((), [1] * (far - 1), [far // 3, 0, far // 2]):
            assert found_by(index_of(tokens[:far], pieces), tokens, first, length) == expected


@pytest.mark.parametrize("pieces", [[], [FIRST_ROOM], [FIRST_ROOM - 1, 2, 3000], [7] * 1000])
def test_it_grows(pieces: list[int]) -> None:
    """Over several sizes of its tables; with a large vocabulary no token is as frequent as `STEPS`."""
    tokens = some_tokens(9000, 3000, 1)
    assert max(np.bincount(tokens)) < STEPS
    expected = in_rows(tokens, 8960, 9000, 8800)
    assert len(expected) > 100 and {length for *_, length in expected} == {*range(1, LONGEST + 1)}
    assert found_by(index_of(tokens[:8800], pieces), tokens, 8960, 9000) == expected


def test_of_frequent_tokens_the_latest_are_found_and_the_longest_of_rarer_ones() -> None:
    """The last two tokens are everywhere; the last four stand once behind more than `STEPS` of these."""
    tokens = [5, 6, 7, 0, 9] + [7, 0] * 50 + [8, 5, 6, 7, 0]
    end = len(tokens)
    found = found_by(index_of(tokens[: end - 4]), tokens, end - 1, end)
    assert found == [(0, 4, 4)] + [(0, 7 + 2 * n, 2) for n in range(50 - STEPS, 50)]


def test_a_query_has_the_longest_matches_and_of_these_the_latest() -> None:
    tokens = [1, 2, 3] * 10 + [9, 3] * 80 + [1, 2, 3]
    far = len(tokens) - 3
    long = [(0, 3, 3)] + [(0, m, 4) for m in range(6, 31, 3)]
    latest = [(0, m, 1) for m in range(32, far, 2)][len(long) - MOST :]
    assert in_rows(tokens, far + 2, far + 3, far) == long + latest


@pytest.mark.parametrize("tokens", [[], [3], [3, 3], [3, 3, 3, 3]])
def test_a_history_shorter_than_what_is_compared(tokens: list[int]) -> None:
    for far in range(len(tokens) + 1):
        for first in range(len(tokens)):
            expected = by_definition(tokens, first, len(tokens), far)
            assert in_rows(tokens, first, len(tokens), far) == expected
            assert found_by(index_of(tokens[:far]), tokens, first, len(tokens)) == expected
    assert found_by(index_of([]), [*tokens, 3], len(tokens), len(tokens) + 1) == []
