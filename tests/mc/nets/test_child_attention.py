"""Newest tokens look for themselves below the entries of a Working Context."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mc.nets.child_attention import HEADS, ChildAttention, ChildKeys

D, K, W = 64, 8, 12


def matching(newest: int = K, dtype: torch.dtype = torch.float32) -> ChildAttention:
    return ChildAttention(D, newest, dtype).init_weights(torch.Generator().manual_seed(0))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Under(NamedTuple):
    """K vectors [N,W·K,D] under each of W entries."""

    x: Tensor
    entry: Tensor

    def found(self, net: ChildAttention, newest: Tensor) -> Tensor:
        return net(newest, ChildKeys(net.keys(self.x), self.entry), W)


def below(seed: int = 0, rows: int = 1) -> Under:
    return Under(normal(rows, W * K, D, seed=seed), torch.arange(W).repeat_interleave(K).expand(rows, -1))


@torch.no_grad()
def test_the_entry_that_has_a_newest_token_stands_out() -> None:
    under, newest = below(), normal(1, K, D, seed=1)
    under.x[0, 5 * K + 3] = newest[0, -2]
    found = under.found(matching(), newest)
    assert found.shape == (1, W, HEADS) and found.dtype == torch.float32 and (found >= 0).all()
    assert (found.argmax(1) == 5).all() and (found[0, 5] > 1.2 * found[0].median(0).values).all()


@torch.no_grad()
def test_what_is_rare_counts_for_more_than_what_is_common() -> None:
    """One token is in every entry, another in one: the attention to the first is shared, so the entry of the second stands out."""
    under, newest = below(), normal(1, K, D, seed=1)
    under.x[0, ::K] = newest[0, -1]
    common = under.found(matching(), newest)[0]
    assert (common.max(0).values < 1.5 * common.min(0).values).all()
    under.x[0, 7 * K + 1] = newest[0, -2]
    found = under.found(matching(), newest)[0]
    assert (found.argmax(0) == 7).all() and (found[7] > 1.2 * found.median(0).values).all()


@torch.no_grad()
def test_all_that_counts_depends_on_all_that_is_given() -> None:
    net, under, newest = matching(), below(), normal(1, K, D, seed=1)
    before = under.found(net, newest)
    for token in range(K):
        changed = newest.clone()
        changed[0, token] = normal(D, seed=2)
        assert (under.found(net, changed) - before).abs().max() > 1e-4
    for child in range(0, W * K, 7):
        changed = under.x.clone()
        changed[0, child] = newest[0, 0]
        assert (under._replace(x=changed).found(net, newest) - before).abs()[0, child // K].max() > 1e-4


@torch.no_grad()
def test_what_is_not_looked_at_does_not_count_and_order_neither() -> None:
    net, under, newest = matching(), below(), normal(1, K, D, seed=1)
    hidden = under._replace(entry=torch.where(under.entry == 3, W, under.entry))
    other = hidden._replace(x=torch.where((under.entry == 3)[..., None], newest[:, :1], under.x))
    found = hidden.found(net, newest)
    torch.testing.assert_close(other.found(net, newest), found)
    assert (found[0, 3] == 0).all() and (found[0, :3] > 0).all()
    order = torch.randperm(W * K, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(Under(hidden.x[:, order], hidden.entry[:, order]).found(net, newest), found)
    nothing = under._replace(entry=torch.full_like(under.entry, W)).found(net, newest)
    assert nothing.shape == found.shape and not nothing.any()


@torch.no_grad()
def test_newer_tokens_count_for_more_and_heads_differ_in_how_much() -> None:
    net, under, newest = matching(), below(), normal(1, K, D, seed=1)
    gains = []
    for token in (0, K - 1):
        held = under.x.clone()
        held[0, 5 * K] = newest[0, token]
        gains.append((under._replace(x=held).found(net, newest) - under.found(net, newest))[0, 5])
    old, new = gains
    assert new[0] > 2 * old[0] and new[0] - old[0] > new[-1] - old[-1]


@torch.no_grad()
def test_a_short_history_has_fewer_tokens_to_look_for() -> None:
    net, under = matching(), below()
    newest = normal(1, 3, D, seed=1)
    assert under.found(net, newest).isfinite().all()
    with_old = torch.cat([normal(1, K - 3, D, seed=9), newest], dim=1)
    net.age[:, : K - 3] = -1e9
    torch.testing.assert_close(under.found(net, newest), under.found(net, with_old))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_rows_do_not_mix_and_the_result_is_fp32(dtype: torch.dtype) -> None:
    net, under, newest = matching(dtype=dtype), below(rows=3), normal(3, K, D, seed=1)
    found = under.found(net, newest)
    assert found.dtype == torch.float32
    for row in range(3):
        alone = Under(under.x[row : row + 1], under.entry[row : row + 1]).found(net, newest[row : row + 1])
        torch.testing.assert_close(alone[0], found[row], rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-5)
