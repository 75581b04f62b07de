"""Matches: far tokens behind an earlier occurrence of the newest tokens, which a head that copies would look at.

A token m ≤ q matches a query at token q by the number of tokens up to m − 1 that agree with those up to q, at most `LONGEST`. A query
has at most `MOST` matches: the longest ones, and among these the latest. `row_matches` compares all tokens of a row; `MatchIndex` finds
the same in a history of any length at a cost that does not depend on it.

Shapes: `B` rows, `T` tokens, `Q` queries, `M` far tokens, `P` matches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LONGEST = 6  # tokens; longer agreements count as this
MOST = 64  # matches of a query


@torch.no_grad()
def row_matches(tokens: Tensor, first: int, end: int, far: int) -> Tensor:
    """Lengths int64 [B,Q,M] of the matches of the queries at the tokens `first … end−1` among the first `far` tokens; 0 = none.

    `tokens` are int64 [B,T].
    """
    place = torch.arange(max(far, end), device=tokens.device)
    length = torch.zeros(len(tokens), end - first, far, dtype=torch.int64, device=tokens.device)
    agrees = (place[:far] <= place[first:end, None]).repeat(len(tokens), 1, 1)
    for back in range(LONGEST):
        queries, before = _shifted(tokens, first - back, end - back, -1), _shifted(tokens, -1 - back, far - 1 - back, -2)
        agrees &= queries.unsqueeze(-1) == before.unsqueeze(1)
        length += agrees
    if far > MOST:
        rank = length * far + place[:far]
        length *= rank >= rank.topk(MOST, dim=-1).values[..., -1:]
    return length


def _shifted(tokens: Tensor, begin: int, end: int, outside: int) -> Tensor:
    """The tokens `begin … end−1`, with `outside` for those before the first one."""
    missing = min(max(0, -begin), end - begin)
    return torch.nn.functional.pad(tokens[:, begin + missing : end], (missing, 0), value=outside)


class Matches(NamedTuple):
    """Matches of some queries, all [P]: number of the query, place of the matching token, and length."""

    query: np.ndarray
    place: np.ndarray
    length: np.ndarray


ORDERS = (1, 2, 4)  # tokens of the agreements that are looked up
STEPS = 32  # occurrences of each that are looked at, the latest first
FIRST_ROOM = 1024  # tokens


class MatchIndex:
    """Index of the far tokens of a history: for each token the one before it that ends an equal n-gram.

    Of n-grams that are more frequent than `STEPS` it finds the latest occurrences only. It holds 30 to 80 bytes per token.
    """

    def __init__(self) -> None:
        self.length = 0  # tokens
        self._allot(np.zeros(0, dtype=np.int32), FIRST_ROOM)

    def add(self, tokens: np.ndarray) -> None:
        """Adds the next tokens of the history, integers [n]."""
        end = self.length + len(tokens)
        if end > len(self._tokens):
            self._allot(np.append(self._tokens[: self.length], tokens), 2 * end)
        else:
            self._tokens[self.length : end] = tokens
        self._link(self.length, end)

    def find(self, newest: np.ndarray, queries: int, end: int) -> Matches:
        """Matches of the last `queries` of the `newest` tokens [n], the last before token `end`; `LONGEST` − 1 should precede them."""
        last = np.arange(len(newest) - queries, len(newest))
        at = np.concatenate([self._heads[order, self._bucket(newest, order, last)] for order in range(len(ORDERS))])
        found = np.empty((STEPS, len(at)), dtype=np.int32)
        flat = np.arange(len(ORDERS)).repeat(queries) * (len(self._tokens) + 1)  # an unknown n-gram, −1, is in the column after the last
        for step in range(STEPS):
            found[step] = at
            at = self._before[flat + at]
        query = np.tile(np.arange(queries, dtype=np.int64), STEPS * len(ORDERS))
        ends = found.reshape(-1)
        query, ends = query[ends >= 0], ends[ends >= 0].astype(np.int64)
        both = np.unique(query * (self.length + 1) + ends)
        query, ends = np.divmod(both, self.length + 1)
        length = self._agreement(newest, last[query], ends)
        keep = (length > 0) & (ends < np.minimum(self.length - 1, end - queries + query))
        query, ends, length = query[keep], ends[keep], length[keep]
        order = np.lexsort((-ends, -length, query))
        query, ends, length = query[order], ends[order], length[order]
        rank = np.arange(len(query)) - query.searchsorted(query)
        keep = rank < MOST
        return Matches(query[keep], ends[keep] + 1, length[keep])

    def _agreement(self, newest: np.ndarray, query: np.ndarray, ends: np.ndarray) -> np.ndarray:
        back = np.arange(LONGEST)[:, None]
        mine, theirs = query - back, ends - back
        equal = (newest[mine.clip(min=0)] == self._tokens[theirs.clip(min=0)]) & (mine >= 0) & (theirs >= 0)
        return np.logical_and.accumulate(equal, axis=0).sum(0)

    def _allot(self, tokens: np.ndarray, room: int) -> None:
        """Makes room for `room` tokens, and enters those there are anew, as n-grams have more buckets then."""
        buckets = 1 << (room - 1).bit_length()
        self._tokens = np.zeros(room, dtype=np.int32)
        self._tokens[: len(tokens)] = tokens
        self._heads = np.full((len(ORDERS), buckets), -1, dtype=np.int32)  # the last token of each bucket
        self._before = np.full(len(ORDERS) * (room + 1), -1, dtype=np.int32)  # of each token: the one before it in its bucket
        self._link(0, self.length)

    def _link(self, begin: int, end: int) -> None:
        """Enters the tokens `begin … end−1`."""
        self.length = end
        places = np.arange(begin, end)
        for order, heads in enumerate(self._heads):
            bucket = self._bucket(self._tokens[:end], order, places)
            by_bucket = bucket.argsort(kind="stable")
            bucket, place = bucket[by_bucket], places[by_bucket]
            before = heads[bucket]
            follows = np.flatnonzero(bucket[1:] == bucket[:-1])  # the next one is in the same bucket
            before[follows + 1] = place[follows]
            self._before[order * (len(self._tokens) + 1) + place] = before
            heads[bucket] = place  # of several in a bucket the last one stays

    def _bucket(self, tokens: np.ndarray, order: int, places: np.ndarray) -> np.ndarray:
        """Bucket of the n-gram that ends at each place; agreements shorter than the n-gram, at the beginning, have one too."""
        code = np.zeros(len(places), dtype=np.uint64)
        for back in range(ORDERS[order]):
            code = (code + tokens[(places - back).clip(min=0)].astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (code >> np.uint64(64 - (self._heads.shape[1] - 1).bit_length())).astype(np.int64)
