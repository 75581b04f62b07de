"""Scores of a session are those of their definition, and what is far back is found by what the newest tokens repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mc.nets import layered_lens
from mc.nets.layered_lens import NEWEST
from mc.nets.matches import row_matches
from mc.session import layered_scores
from mc.session.allocator import raw_from
from mc.session.layered_scores import Looks
from mc.session.layered_session import LayeredSession
from nanochat.infer.memory_kv_cache import MemoryKVCache
from tests.helpers.layered_memory import VOCAB, K, layered_memory, layered_session, session_config, some_tokens

BLOCKS = 20
LENGTH = BLOCKS * K + 2 * K + 5
# Levels of the far blocks, of which the last 2 … 3 hold newest queries.
LAYOUTS = {"one": [1] * 9 + [0, 1, 0, 0, 1, 1] + [0] * 5, "two": [2] * 8 + [0, 1, 1, 0, 1, 1, 0, 1] + [0] * 4}


@pytest.fixture(autouse=True)
def _all_looks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    set_least(monkeypatch, 0.0)


def set_least(monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    for module in (layered_lens, layered_scores):
        monkeypatch.setattr(module, "LEAST", weight)


def laid_out(s: LayeredSession, levels: list[int]) -> None:
    """Lays out the far blocks with `levels`."""
    editor, context = s.allocator.editor, s.context
    for level in (1, 2):
        first = [at * K for at, each in enumerate(levels) if each >= level and at % K ** (level - 1) == 0]
        context.change(*editor.collapsed(context.tiling, context.tiling.start.searchsorted(first)))


def by_definition(s: LayeredSession, queries: Tensor) -> Tensor:
    """Looks [Q,M] of queries [L,H,Q,E] of the newest tokens at each far token, from what the slots hold."""
    context, lens, Q = s.context, s.memory.lensnet, queries.shape[2]
    far, first, slots = raw_from(s.length, s.tree.spec.geometry, s.budget.recent), s.length - queries.shape[2], s.tree.spec.geometry.slots
    lod, start = (torch.from_numpy(part) for part in context.tiling)
    keys, bias = (torch.stack([part[:, context.slot] for part in parts]) for parts in (context.slots.keys, context.slots.bias))
    keys, bias = (part.repeat_interleave(queries.shape[1] // part.shape[1], dim=1) for part in (keys, bias))
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1]) + bias.unsqueeze(2)
    seen = scores.masked_fill(start > torch.arange(first, s.length)[:, None], -math.inf).softmax(-1)
    hits = (seen.square() * lens.heads.exp().view(*queries.shape[:2], 1, 1)).sum((0, 1))  # (Q, W)
    looks = lens.looks_by_matches(row_matches(s.tree.tokens(0, s.length)[None], first, s.length, far))[0]
    hits *= hits >= layered_scores.LEAST
    assert looks.shape == (Q, far) and looks.any()
    for entry, (level, begin) in enumerate(zip(lod.tolist(), start.tolist(), strict=True)):
        stride = K**level // slots if level else 1
        if begin < far:
            looks[:, begin : begin + stride] += hits[:, entry, None] / stride**2
    return looks


def session_of(slots: int, layout: str, interval: int = K, **model) -> tuple[LayeredSession, Tensor]:
    """A session that has read repetitive tokens with a layout of its far blocks, and the queries of the newest ones."""
    memory = layered_memory(slots=slots, trained=True, **model)
    s = layered_session(memory, session_config(400, levels=2, interval=interval))
    tokens = some_tokens(LENGTH)
    tokens[-20:-6] = tokens[35:49]
    queries: list[Tensor] = []
    add = s._scores.add
    s._scores.add = lambda given: (queries.append(given), add(given))
    s._append(tokens)
    laid_out(s, LAYOUTS[layout])
    return s, torch.cat(queries, dim=2)[:, :, -NEWEST:]


@pytest.mark.parametrize(("slots", "model"), [(1, {"kv_heads": 1}), (2, {})])
@pytest.mark.parametrize(("interval", "least"), [(1, 0.0), (K, 0.0), (40, 0.0), (K, 0.01)])
@torch.no_grad()
def test_scores_are_their_definition(slots: int, model: dict, interval: int, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_least(monkeypatch, least)
    s, queries = session_of(slots, "one", interval, **model)
    expected = s.memory.lensnet(
        by_definition(s, queries).unflatten(-1, (1, BLOCKS, K)).transpose(0, 1).reshape(1, NEWEST, BLOCKS, K), interval
    )[0]
    expected = (expected.exp() - s.memory.lensnet.faint.exp() + layered_scores.UNSEEN).log()
    scores, far = s._lens_scores(), s.context.tiling.start < BLOCKS * K
    torch.testing.assert_close(torch.from_numpy(scores[far]), expected[s.context.tiling.start[far] // K], rtol=1e-3, atol=1e-3)
    assert not scores[~far].any() and expected.std() > 0.1


@pytest.mark.parametrize("slots", [1, 2])
@torch.no_grad()
def test_a_node_above_level_1_scores_as_its_best_block(slots: int) -> None:
    """Nearly: what looks at it is taken to lead evenly to all its blocks, and not to those after it."""
    s, queries = session_of(slots, "two")
    s._lens_scores()
    reached = s.memory.lensnet.reached(by_definition(s, queries).view(1, -1, BLOCKS, K), K)[0]
    found = s._scores._reached(s._scores._nodes_now(), s.length)
    found, expected = torch.from_numpy(found), torch.cat([reached[:8].max()[None], reached[8:]])
    assert reached[8:].min() < expected[0] > 1.2 * reached[:8].mean()  # by a match, so that the best block is not any
    assert (found[1:6] <= expected[1:6]).all() and (found[1:6] > 0.7 * expected[1:6]).all()
    torch.testing.assert_close(found[[0, *range(6, 13)]], expected[[0, *range(6, 13)]], rtol=0.03, atol=1e-5)


@torch.no_grad()
def test_what_looks_at_a_gist_counts_for_all_its_blocks_when_it_is_expanded() -> None:
    s, _ = session_of(2, "two")
    scores, last = s._scores, s.length - 1
    scores._looks = Looks(np.array([last]), np.array([4 * K]), np.array([2]), np.array([1.0], dtype=np.float32))

    def reached(nodes: int) -> list[float]:
        return scores._reached(scores._nodes_now(), s.length)[:nodes].tolist()

    lens = s.memory.lensnet
    each = float((lens.moved[0].exp() + lens.stayed[0].exp()) * lens.ahead[:K].exp().mean()) * K / (K * K / 2) ** 2
    assert reached(2) == pytest.approx([each, 0])
    s.context.change(*s.allocator.editor.replaced(s.context.tiling, *np.array([[0], [2], [1], [2 * K]])))
    assert reached(9) == pytest.approx([0] * 4 + [each] * 4 + [0])


@pytest.mark.parametrize("interval", [3, NEWEST + 8])
@torch.no_grad()
def test_tokens_that_are_decoded_or_come_one_by_one_look_as_those_of_a_prompt(interval: int) -> None:
    """Their looks are kept when they are read; the layout does not change here."""
    memory, tokens = layered_memory(trained=True, max_seq_len=512), some_tokens(LENGTH + NEWEST + 5)
    tokens[-20:-6] = tokens[35:49]
    if interval < NEWEST:
        memory.lensnet.copying.fill_(-30)  # matches are those in what was far at the time
    kinds = ([1] * (NEWEST + 5), [NEWEST + 5], [5, 1, 20, NEWEST - 21])
    sessions = [layered_session(memory, session_config(400, levels=2, interval=interval)) for _ in range(len(kinds) + 1)]
    cache = MemoryKVCache(memory.model, sessions[:1])
    for s in sessions:
        s.allocator.plan = lambda *_: []
        if s is sessions[0]:
            cache.append(tokens[None, :LENGTH])
        else:
            s._append(tokens[:LENGTH])
        laid_out(s, LAYOUTS["one"])
    cache._refresh(0)
    for token in tokens[LENGTH:]:
        cache.append(token[None, None])
    sessions[0].flush()
    for s, pieces in zip(sessions[1:], kinds, strict=True):
        for piece in tokens[LENGTH:].split(pieces):
            s._append(piece)
    decoded, expected, *others = (s._lens_scores() for s in sessions)
    far = sessions[0].context.tiling.start < raw_from(LENGTH, memory.config.geometry, sessions[0].budget.recent)
    assert expected[far].std() > 0.1
    for scores in (decoded, *others):
        np.testing.assert_allclose(scores[far], expected[far], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("copying", "most"), [(1 / 2, 160), (1 / 20, 224)])
@torch.no_grad()
def test_a_needle_far_back_is_expanded_at_once(copying: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a history of 100 times the Working Context: one prompt repeats what stands before the needle, under gists of the highest
    levels, and the block that goes on there is raw when the prompt is read. Gists that nothing looks at make room for a faint look too."""
    monkeypatch.undo()
    memory, random = layered_memory(kv_heads=1), np.random.default_rng(3)
    torch.nn.init.constant_(memory.lensnet.copying, math.log(copying))
    s = layered_session(memory, session_config(most, levels=3))
    tokens = torch.from_numpy(random.integers(VOCAB, size=100 * s.budget.most))
    s.append(tokens)
    for needle in (1000, 8001):
        levels, start = s.context.tiling
        assert levels[start.searchsorted(needle, side="right") - 1] >= 2
        s.extend(tokens[needle - 12 : needle])
        raw = s.context.tiling.start[s.context.tiling.lod == 0]
        assert {needle, needle + 4} <= {*raw.tolist()}
        assert len(s.context) <= s.budget.most
