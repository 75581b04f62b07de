"""LensNet of a layered memory: scores follow where looks lead, and learn.

Shapes as in `mc.nets.layered_lens`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mc.nets.layered_lens import COPYING, DECAY, FAINT, LEAST, NEWEST, STAYING, LayeredLensNet

L, H, K, BLOCKS = 2, 3, 8, 6


def new_lens() -> LayeredLensNet:
    return LayeredLensNet(L, H).init_weights()


def scored(lens: LayeredLensNet, looks: list[tuple[int, int]], interval: int, queries: int = 16) -> Tensor:
    """Scores of `BLOCKS` blocks if queries of some ages looked at some tokens with all heads: `looks` are (age, token)."""
    hits = torch.zeros(1, L, H, queries, BLOCKS * K)
    for age, token in looks:
        hits[..., queries - 1 - age, token] = 1.0
    return lens(lens.looks_by_hits(hits).unflatten(-1, (BLOCKS, K)), interval)[0].detach()


def test_the_untrained_score_is_where_looks_lead() -> None:
    """A look at token 21 leads to 21 … 28 within 8 tokens, of which 3 are in block 2 (16 … 23) and 5 in block 3."""
    scores = scored(new_lens(), [(0, 21)], interval=8).exp() - FAINT
    expected = torch.tensor([0, 0, 3 / 8, 5 / 8, 0, 0]) * L * H * (1 + STAYING)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_scores_are_sums_over_all_looks_and_all_that_they_lead_to() -> None:
    """Against a loop over queries, tokens and distances, with all weights learned."""
    lens, generator = new_lens(), torch.Generator().manual_seed(2)
    for weights in (lens.moved, lens.stayed, lens.ahead):
        torch.nn.init.normal_(weights, generator=generator)
    for queries, interval in ((1, 1), (5, 3), (NEWEST, 20), (9, 1000)):
        looks = torch.rand(2, queries, BLOCKS, K, generator=generator)
        expected, ahead = torch.zeros(2, 2 * BLOCKS * K + 2 * NEWEST), lens.ahead[:interval].exp().detach()
        for age in range(queries):
            for n, share in enumerate(ahead / len(ahead)):
                for at, weight in ((age + n, lens.moved[age]), (n, lens.stayed[age])):
                    expected[:, at : at + BLOCKS * K] += weight.exp().detach() * share * looks[:, queries - 1 - age].flatten(1)
        expected = expected[:, : BLOCKS * K].unflatten(1, (BLOCKS, K)).sum(-1)
        torch.testing.assert_close(lens.reached(looks, interval).detach(), expected)


def test_matches_count_as_the_squares_of_their_shares() -> None:
    lens, lengths = new_lens(), torch.tensor([[[0, 4, 1, 0, 6], [0] * 5]])
    shares = torch.tensor([4.0, 1.0, 6.0]).softmax(0)
    looks = lens.looks_by_matches(lengths)[0].detach()
    torch.testing.assert_close(looks[0, [1, 4]], COPYING * L * H * shares[[0, 2]].square())
    assert COPYING * L * H * shares[1].square() < LEAST, "the shortest match is too faint"
    assert not looks[0, [0, 2, 3]].any() and not looks[1].any()


def test_faint_hits_are_no_looks() -> None:
    hits = torch.full((1, L, H, 1, 2), LEAST / L / H)
    hits[..., 0] *= 1.01
    hits[..., 1] *= 0.99
    torch.testing.assert_close(new_lens().looks_by_hits(hits)[0, 0].detach(), torch.tensor([1.01 * LEAST, 0]))


def test_an_older_query_has_moved_on() -> None:
    """Token 10, looked at 6 tokens ago, points at token 16 by now, less the decay; a smaller part stays."""
    older = scored(new_lens(), [(6, 10)], interval=4).exp() - FAINT
    torch.testing.assert_close(older, torch.tensor([0, STAYING, DECAY**6, 0, 0, 0]) * L * H, rtol=1e-4, atol=1e-5)


def test_fewer_queries_and_longer_intervals_are_possible() -> None:
    assert torch.isfinite(scored(new_lens(), [(0, 3)], interval=1000, queries=1)).all()
    assert torch.isfinite(scored(new_lens(), [(0, 3)], interval=1, queries=NEWEST)).all()


def test_it_learns_which_head_tells_the_truth() -> None:
    """Head 0 looks where the next tokens look, the others look elsewhere."""
    lens, generator = new_lens(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(lens.parameters(), lr=0.03)
    right = 0
    for step in range(200):
        block = torch.randint(BLOCKS, (32,), generator=generator)
        wrong = torch.randint(BLOCKS, (32, L * H), generator=generator)
        hits = torch.zeros(32, L * H, 4, BLOCKS, K)
        hits[torch.arange(32)[:, None], torch.arange(L * H), 3, wrong, 0] = 1.0
        hits[:, 0, 3] = 0
        hits[torch.arange(32), 0, 3, block, 0] = 1.0
        looks = lens.looks_by_hits(hits.flatten(3).unflatten(1, (L, H))).unflatten(-1, (BLOCKS, K))
        scores = lens(looks, 4)
        if step >= 150:
            right += (scores.argmax(-1) == block).sum().item()
        loss = torch.nn.functional.cross_entropy(scores, block)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert right > 0.9 * 50 * 32


def test_it_learns_what_length_of_a_match_tells_the_truth() -> None:
    """And how much matches count: those of four tokens are right, longer ones and hits are elsewhere."""
    lens, generator = new_lens(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([lens.lengths, lens.copying], lr=0.1)
    for _ in range(150):
        block, wrong, hit = torch.randint(BLOCKS, (3, 32), generator=generator)
        lengths, rows = torch.zeros(32, 1, BLOCKS, K, dtype=torch.int64), torch.arange(32)
        lengths[rows, 0, wrong, 1] = 6
        lengths[rows, 0, block, 1] = 4
        looks = lens.looks_by_matches(lengths.flatten(2)).unflatten(-1, (BLOCKS, K))
        looks = looks + torch.nn.functional.one_hot(hit, BLOCKS)[:, None, :, None] * torch.eye(K)[0]
        scores = lens(looks, 4)
        loss = torch.nn.functional.cross_entropy(scores, block)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.argmax(-1) == block).float().mean() > 0.9
    assert lens.lengths.argmax() == 3 and lens.copying > new_lens().copying
