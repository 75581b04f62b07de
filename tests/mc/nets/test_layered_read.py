"""Tokens that are read behind a memory: the same as in one row, with what it keeps of them."""

from __future__ import annotations

import torch

from mc.nets.layered_gists import tokens_as_entries
from mc.nets.layered_read import read_behind
from tests.helpers.tiny_model import tiny_model


@torch.no_grad()
def test_a_row_in_two_parts_is_the_whole_row() -> None:
    model, tokens = tiny_model(kv_heads=1, head_dim=16), torch.randint(61, (1, 20), generator=torch.Generator().manual_seed(0))
    embedded = model.embed(tokens)
    whole = read_behind(model, embedded, model.rotary(0, 20), None, 5)
    first, second = (type(embedded)(*(part[:, at] for part in embedded)) for at in (slice(0, 12), slice(12, 20)))
    begun = read_behind(model, first, model.rotary(0, 12), None, 5)
    memory = tokens_as_entries(*(part.transpose(1, 2)[:, None] for part in (begun.keys, begun.values))).by_layer()
    ended = read_behind(model, second, model.rotary(12, 20), memory, 5)
    assert ended.queries.shape == (3, 3, 5, 16) and ended.keys.shape == (3, 1, 8, 16)
    torch.testing.assert_close(torch.cat([begun.keys, ended.keys], dim=2), whole.keys)
    torch.testing.assert_close(torch.cat([begun.values, ended.values], dim=2), whole.values)
    torch.testing.assert_close(ended.queries, whole.queries)
    torch.testing.assert_close(ended.hidden, whole.hidden)
    torch.testing.assert_close(whole.hidden, model.backbone(embedded, model.rotary(0, 20))[0, -1])
