"""LensNet of a layered memory: scores follow where queries point by now, and learn.

Shapes as in `mc.nets.layered_lens`.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mc.nets.layered_lens import DECAY, FAINT, NEWEST, LayeredLensNet
from mc.nets.lensnet import LensConfig

L, H, K, BLOCKS = 2, 3, 8, 6
FAR = torch.arange(BLOCKS, 0, -1)[None] * K


def new_lens(**options) -> LayeredLensNet:
    return LayeredLensNet(LensConfig(**options), L, H).init_weights(torch.Generator().manual_seed(0))


def scored(lens: LayeredLensNet, looks: list[tuple[int, int]], interval: int, level: int = 1, queries: int = 16) -> Tensor:
    """Scores of `BLOCKS` blocks if queries of some ages looked at some tokens with all heads: `looks` are (age, token)."""
    hits = torch.zeros(1, L, H, queries, BLOCKS * K)
    for age, token in looks:
        hits[..., queries - 1 - age, token] = 1.0
    return lens(hits.unflatten(-1, (BLOCKS, K)), torch.full((1, BLOCKS), level), FAR, interval)[0].detach()


def test_the_untrained_score_is_what_the_next_tokens_will_look_at() -> None:
    """Token 20 looked at now: the next 8 look at 21 … 28, of which 3 are in block 2 (16 … 23) and 5 in block 3."""
    scores = scored(new_lens(), [(0, 20)], interval=8).exp() - FAINT
    expected = torch.tensor([0, 0, 3 / 8, 5 / 8, 0, 0]) * L * H
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_an_older_query_has_moved_on() -> None:
    """Token 10, looked at 6 tokens ago, points at token 16 by now, less the decay."""
    now, older = (scored(new_lens(), [look], interval=4).exp() for look in ((0, 16), (6, 10)))
    torch.testing.assert_close(older - FAINT, (now - FAINT) * DECAY**6, rtol=1e-4, atol=1e-6)


def test_nodes_of_gists_count_by_what_looks_at_them() -> None:
    scores = scored(new_lens(), [(0, 7)], interval=8, level=2)
    assert scores.argmax() == 0 and scores[1] == pytest.approx(math.log(FAINT), rel=1e-3)


def test_fewer_queries_and_longer_intervals_are_possible() -> None:
    assert torch.isfinite(scored(new_lens(), [(0, 3)], interval=1000, queries=1)).all()
    assert torch.isfinite(scored(new_lens(), [(0, 3)], interval=1, queries=NEWEST)).all()


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_it_learns_which_head_tells_the_truth(head: str) -> None:
    """Head 0 looks where the next tokens look, the others look elsewhere."""
    lens, generator = new_lens(lensnet_head=head), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(lens.parameters(), lr=0.03)
    right = 0
    for step in range(200):
        block = torch.randint(BLOCKS, (32,), generator=generator)
        wrong = torch.randint(BLOCKS, (32, L * H), generator=generator)
        hits = torch.zeros(32, L * H, 4, BLOCKS, K)
        hits[torch.arange(32)[:, None], torch.arange(L * H), 3, wrong, 0] = 1.0
        hits[:, 0, 3] = 0
        hits[torch.arange(32), 0, 3, block, 0] = 1.0
        scores = lens(hits.unflatten(1, (L, H)), torch.ones(32, BLOCKS, dtype=torch.int64), FAR.expand(32, -1), 4)
        if step >= 150:
            right += (scores.argmax(-1) == block).sum().item()
        loss = torch.nn.functional.cross_entropy(scores, block)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right > 0.9 * 50 * 32
