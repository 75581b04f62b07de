"""Scores of a session are those of a plain computation: one softmax over the slots, with what lies below gists in their place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mc.nets.layered_lens import NEWEST
from mc.session import layered_context
from mc.session.allocator import raw_from
from mc.session.block_pool import Node
from mc.session.layered_session import LayeredSession
from nanochat.infer.memory_kv_cache import MemoryKVCache
from tests.helpers.layered_memory import K, layered_memory, layered_session, session_config, some_tokens


def plain_counts(s: LayeredSession, queries: Tensor) -> dict[Node, Tensor]:
    """Counts [Q,K] of the newest tokens' queries [L,H,Q,E] for the nodes of the Working Context, a raw block being of level 1."""
    context, spec, repeat = s.context, s.tree.spec, s.memory.model.config.heads // s.memory.model.config.key_heads
    limit, Q = raw_from(s.tree.length, spec.geometry, s.budget.recent), queries.shape[2]
    later = torch.from_numpy(context.tiling.start > np.arange(s.tree.length - Q, s.tree.length)[:, None])

    def attention(keys: Tensor, bias: Tensor) -> Tensor:
        keys, bias = (part.float().repeat_interleave(repeat, dim=1) for part in (keys, bias))
        return queries.float() @ keys.mT * keys.shape[-1] ** -0.5 + bias.unsqueeze(2)

    slots = [torch.stack([layer[:, context.slot] for layer in parts]) for parts in (context.slots.keys, context.slots.bias)]
    parts, shown = [attention(*slots).masked_fill(later, -torch.inf)], {}
    for entry, (level, start) in enumerate(zip(*(part.tolist() for part in context.tiling), strict=True)):
        node, width = (max(level, 1), start // K ** max(level, 1)), spec.geometry.slots if level else K
        if start % K ** node[0] or (level == 0 and start >= limit):
            continue
        shown[node], spread = range(entry, entry + width), bool(level)
        if level > 1 or (level == 1 and node in context.pool):
            children = np.arange(node[1] * K, node[1] * K + K)
            below = context.gists(level - 1, children) if level > 1 else context.pool.get([node])
            parts[0][..., shown[node]] = -torch.inf
            begin = sum(part.shape[-1] for part in parts)
            parts.append(attention(below.keys.flatten(2, 3), below.bias.flatten(2)))
            shown[node], spread = range(begin, begin + parts[-1].shape[-1]), False
        shown[node] = shown[node], spread
    weight = s.memory.lensnet.heads.exp().view(*queries.shape[:2], 1, 1)
    hits = (torch.cat(parts, dim=-1).softmax(-1).square() * weight).sum((0, 1))
    counts = {}
    for node, (columns, spread) in shown.items():
        total = hits[:, columns].sum(1, keepdim=True)
        first = total * torch.eye(1, K)
        counts[node] = (total / K**2).expand(-1, K) if spread else first if node[0] > 1 else hits[:, columns]
    return counts


@pytest.mark.parametrize(("slots", "pool", "model"), [(1, 8192, {"kv_heads": 1}), (2, 8 * K, {})])
@torch.no_grad()
def test_scores_are_those_of_a_plain_computation(slots: int, pool: int, model: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """With raw blocks, gists of level 1 in the pool or not, and gists of level 2, while the focus moves and entries come nearer."""
    monkeypatch.setattr(layered_context, "POOL_TOKENS", pool)
    memory, random = layered_memory(slots=slots, trained=True, **model), np.random.default_rng(0)
    s = layered_session(memory, session_config(160, levels=2), score=lambda s: random.uniform(-1, 1, len(s.context)).astype(np.float32))
    cache, hits, kinds = MemoryKVCache(memory.model, [s]), s._hits, set()
    cache.append(some_tokens(300)[None])
    hits()
    for token in some_tokens(200, 1):
        cache.append(token[None, None])
        if s._noted:
            continue
        queries = hits._new[-1]  # random scores have left them
        before = dict(zip(hits._of.tolist(), hits._counts.unbind(1), strict=True))
        scores = hits()
        expected = plain_counts(s, queries)  # after blocks in the pool are placed
        gone = torch.zeros(len(hits._counts) - queries.shape[2], K)
        for at, (level, number) in enumerate(expected):
            name = int(hits._of[at])
            assert name == level + 64 * number
            old = before[name][-len(gone) :] if name in before and len(gone) else gone
            torch.testing.assert_close(hits._counts[:, at], torch.cat([old, expected[level, number]]), rtol=2e-4, atol=1e-9)
        assert len(hits._of) == len(expected) and len(hits._counts) == min(NEWEST, len(gone) + queries.shape[2])
        assert len(scores) == len(s.context) and np.isfinite(scores).all()
        lod, start = s.context.tiling
        kinds |= {
            (level, level == 1 and (1, begin // K) in s.context.pool) for level, begin in zip(lod.tolist(), start.tolist(), strict=True)
        }
    assert {(0, False), (1, True), (2, False)} <= kinds and ((1, False) in kinds) == (pool < 8192)
