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
    hits, mass = token_hits(queries, keys, 6)
    for layer, row, head, query in ((0, 0, 0, 0), (1, 1, 3, 2), (0, 1, 2, 1)):
        seen = keys[layer, row, : 7 + query, head // 2] @ queries[layer, row, query, head] / math.sqrt(8)
        torch.testing.assert_close(hits[row, layer, head, query, : 7 + query], seen.softmax(0).square())
        assert not hits[row, layer, head, query, 7 + query :].any()
        torch.testing.assert_close(mass[row, layer, head, query], seen.logsumexp(0))


def test_hits_on_entries_have_the_tokens_denominator_and_their_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(L, 2, 3, 4, 8, generator=generator), torch.randn(L, 2, 5, 2, 8, generator=generator)
    bias, mass = torch.randn(L, 2, 5, 2, generator=generator), torch.randn(2, L, 4, 3, generator=generator)
    hits = entry_hits(queries, LayeredEntries(keys, keys, bias), mass)
    assert hits.shape == (2, L, 4, 3, 5)
    for layer, row, head, query, entry in ((0, 0, 0, 0, 0), (1, 1, 3, 2, 4), (0, 1, 2, 1, 3)):
        score = keys[layer, row, entry, head // 2] @ queries[layer, row, query, head] / math.sqrt(8) + bias[layer, row, entry, head // 2]
        torch.testing.assert_close(hits[row, layer, head, query, entry], (score - mass[row, layer, head, query]).exp().square())


def test_a_gist_of_equal_tokens_is_hit_as_all_of_them_together() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(L, 1, 1, 2, 8, generator=generator), torch.randn(L, 1, 9, 1, 8, generator=generator)
    keys[:, :, :4] = keys[:, :, :1]
    hits, mass = token_hits(queries, keys, 8)
    gist = LayeredEntries(keys[:, :, :1], keys[:, :, :1], torch.full((L, 1, 1, 1), math.log(4)))
    torch.testing.assert_close(entry_hits(queries, gist, mass)[..., 0], hits[..., :4].sqrt().sum(-1).square())
