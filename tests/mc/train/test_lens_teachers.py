"""Which blocks hold what comes, against a count by hand."""

from __future__ import annotations

import math

import torch

from mc.train.lens_teachers import occurrence
from nanochat.model.cross_entropy import IGNORE
from tests.helpers.tiny_memory import tiny_batch


def by_hand(row: list[int], targets: list[int], decision: int, blocks: int, horizon: int, K: int) -> list[float]:
    """`row` is the tokens and the one after them."""
    told = [0.0] * blocks
    for i in range(decision - 1, decision - 1 + horizon):
        if targets[i] == IGNORE:
            continue
        holding = [f for f in range(blocks) if any(row[j - 1 : j + 1] == row[i : i + 2] for j in range(max(1, f * K), (f + 1) * K))]
        for f in holding:
            told[f] += math.log(blocks / len(holding)) / len(holding)
    return told


def test_every_block_gets_its_share_of_every_pair() -> None:
    """Few different tokens, so that pairs come again and again; a pair may stand across two blocks, and belongs to the second."""
    tokens, targets = tiny_batch(3, seed=4, vocab=7)
    targets = targets.clone()
    targets[1, -9:-3] = IGNORE
    decisions, blocks, horizon, K = [88, 64, 32], [10, 7, 3], 8, 8
    told = occurrence(tokens, targets, decisions, blocks, horizon, K)
    assert told.shape == (3, 3, 10) and told.dtype == torch.float32
    for row in range(3):
        whole = [*tokens[row].tolist(), int(tiny_batch(3, seed=4, vocab=7)[1][row, -1])]
        for point, (decision, count) in enumerate(zip(decisions, blocks, strict=True)):
            expected = by_hand(whole, targets[row].tolist(), decision, count, horizon, K)
            torch.testing.assert_close(told[point, row, :count], torch.tensor(expected), rtol=1e-5, atol=1e-6)
            assert not told[point, row, count:].any()
    assert told[0].any(-1).all()


def test_what_is_everywhere_or_nowhere_says_nothing() -> None:
    tokens = torch.tensor([[1, 2] * 8 + [3, 4, 1, 2]])
    targets = torch.cat([tokens[:, 1:], torch.tensor([[9]])], dim=1)
    told = occurrence(tokens, targets, [17], [4], 3, 4)
    assert not told.any()


def test_only_the_whole_pair_counts() -> None:
    tokens = torch.tensor([[5, 1, 2, 5, 3, 1, 3, 2, 1, 2, 0, 0, 1, 2, 0, 0]])
    targets = torch.cat([tokens[:, 1:], torch.tensor([[0]])], dim=1)
    told = occurrence(tokens, targets, [13], [2], 1, 4)  # the pair 1 2 comes; the first block has it, the second both tokens apart
    torch.testing.assert_close(told, torch.tensor([[[math.log(2), 0.0]]]))
