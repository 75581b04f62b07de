"""Hits: the squares of what attention gives to tokens, and to gists in the same softmax.

Shapes as in `mc.nets.hits`.
"""

from __future__ import annotations

import math

import torch

from mc.nets.hits import entry_hits, token_hits
from mc.nets.layered_gists import LayeredEntries

L = 2


def test_token_hits_are_squared_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(L, 2, 3, 4, 8, generator=generator), torch.randn(L, 2, 9, 2, 8, generator=generator)
    hits = token_hits(queries, keys, 6)
    for layer, row, head, query in ((0, 0, 0, 0), (1, 1, 3, 2), (0, 1, 2, 1)):
        seen = keys[layer, row, : 7 + query, head // 2] @ queries[layer, row, query, head] / math.sqrt(8)
        torch.testing.assert_close(hits[row, layer, head, query, : 7 + query], seen.softmax(0).square())
        assert not hits[row, layer, head, query, 7 + query :].any()


def test_hits_on_entries_are_squared_attention_to_what_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(L, 2, 3, 4, 8, generator=generator), torch.randn(L, 2, 5, 2, 8, generator=generator)
    bias, seen = torch.randn(L, 2, 5, 2, generator=generator), torch.rand(2, 3, 5, generator=generator) < 0.6
    hits = entry_hits(queries, LayeredEntries(keys, keys, bias), seen)
    assert hits.shape == (2, L, 4, 3, 5) and 0 < seen.sum() < seen.numel()
    for layer, row, head, query in ((0, 0, 0, 0), (1, 1, 3, 2), (0, 1, 2, 1)):
        scores = keys[layer, row, :, head // 2] @ queries[layer, row, query, head] / math.sqrt(8) + bias[layer, row, :, head // 2]
        expected = scores.masked_fill(~seen[row, query], -math.inf).softmax(0).square()
        torch.testing.assert_close(hits[row, layer, head, query], expected)


def test_a_gist_of_equal_tokens_is_hit_as_all_of_them_together() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(L, 1, 1, 2, 8, generator=generator), torch.randn(L, 1, 9, 1, 8, generator=generator)
    keys[:, :, :4] = keys[:, :, :1]
    hits = token_hits(queries, keys, 8)
    bias = torch.zeros(L, 1, 6, 1).index_fill(2, torch.tensor(0), math.log(4))
    entries = LayeredEntries(keys[:, :, 3:], keys[:, :, 3:], bias)  # a gist of the first four, and the others
    found = entry_hits(queries, entries, torch.ones(1, 1, 6, dtype=torch.bool))
    torch.testing.assert_close(found, torch.cat([hits[..., :4].sqrt().sum(-1, keepdim=True).square(), hits[..., 4:]], dim=-1))
