"""Layered gists: means with a count, levels, positions, and rows read behind them.

Shapes as in `mc.nets.layered_gists`.
"""

from __future__ import annotations

import math

import pytest
import torch

from mc.config import MCConfig
from mc.layout.layout import Geometry, from_levels, widths
from mc.memory_model import MemoryModel
from mc.nets.gistnet import GistConfig
from mc.nets.layered_gists import LayeredEntries, LayeredGistNet, tokens_as_entries, turned
from nanochat.model.gpt import GPT, GPTConfig

B, T, K = 2, 256, 8


def new_memory(**options) -> MemoryModel:
    """A small model whose output projections are not zero, with an untrained layered memory."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig(depth=3, aspect_ratio=16, head_dim=16, max_seq_len=T, window_pattern="L", vocab_size=300)).init_weights(generator)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    config = MCConfig(gist=GistConfig(gistnet_type="layered", **options), block_size=K, allocator_recent_tokens=2 * K, mc_horizon=16)
    return MemoryModel(model, config, T).init_weights()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(300, (B, T), generator=torch.Generator().manual_seed(1))


def read(memory: MemoryModel, tokens: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    bank = memory.build_bank(memory.forward_plain(tokens))
    width = int(widths(levels, T, memory.config.geometry)[0])
    return memory.forward_layouts(bank, from_levels(levels, T, width, memory.config.geometry)).hidden


def test_blocks_that_are_all_raw_read_like_the_plain_row(tokens: torch.Tensor) -> None:
    memory = new_memory()
    hidden = read(memory, tokens, torch.zeros(B, memory.plan.blocks, dtype=torch.int64))
    plain = memory.forward_plain(tokens).hidden[:, -memory.plan.tail :]
    assert hidden.shape == plain.shape
    torch.testing.assert_close(hidden, plain, rtol=1e-4, atol=1e-5)


def test_a_gist_of_equal_tokens_gets_the_attention_of_all(tokens: torch.Tensor) -> None:
    """Without positions K equal tokens and their gist are the same to a query."""
    net = LayeredGistNet(1, 2, 8, Geometry(K)).init_weights()
    key, value = torch.randn(2, 1, 1, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    block = tokens_as_entries(key.expand(1, 1, K, 2, 8), value.expand(1, 1, K, 2, 8))
    gist = net._merged(block)
    torch.testing.assert_close(gist.keys, key)
    torch.testing.assert_close(gist.values, value)
    torch.testing.assert_close(gist.bias, torch.full((1, 1, 1, 2), math.log(K)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_keys_can_be_turned_back_and_on() -> None:
    keys, at, on = normal(2, 3, 5, 2, 16), torch.tensor([[0, 1, 7, 90, 4000]] * 3), torch.arange(5) * 11
    assert torch.equal(turned(keys, torch.zeros(5, dtype=torch.int64)), keys)
    torch.testing.assert_close(turned(turned(keys, at), -at), keys, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned(turned(keys, at), on), turned(keys, at + on), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(turned(keys, at)[:, :, 1:], keys[:, :, 1:], atol=0.1)


SMALL = 4  # block size


def gists_of(net: LayeredGistNet, tokens: LayeredEntries, start: int, level: int) -> LayeredEntries:
    """The gist of `level` of the tokens [L,1,K^level,·] from position `start` on."""
    nodes = SMALL ** (level - 1)
    blocks = tokens.each(lambda part: part.reshape(part.shape[0], nodes, SMALL, *part.shape[3:]))
    below = net.of_tokens(blocks, start + torch.arange(nodes) * SMALL)
    for above in range(2, level + 1):
        nodes //= SMALL
        below = net.of_gists(below.each(lambda part, n=nodes: part.reshape(part.shape[0], n, -1, *part.shape[3:])), above)
    return below


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 2])
def test_an_untrained_gist_of_any_level_is_the_mean_of_all_its_tokens(level: int, slots: int) -> None:
    """Each slot of its share: of the tokens' keys as they are rotated, of their values, and with the logarithm of their number."""
    L, G, E, start, span = 2, 2, 16, 3 * SMALL**level, SMALL**level
    net = LayeredGistNet(L, G, E, Geometry(SMALL, slots)).init_weights()
    unrotated, values = normal(L, 1, span, G, E), normal(L, 1, span, G, E, seed=1)
    keys = turned(unrotated, start + torch.arange(span))
    gist = gists_of(net, tokens_as_entries(keys, values), start, level)
    assert gist.keys.shape == (L, 1, slots, G, E)
    shares = [part.unflatten(2, (slots, -1)).mean(3) for part in (keys, values)]
    torch.testing.assert_close(turned(gist.keys, torch.full((slots,), start)), shares[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gist.values, shares[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gist.bias, torch.full((L, 1, slots, G), math.log(span / slots)))


@pytest.mark.parametrize("level", [1, 2])
def test_a_trained_gist_is_the_same_wherever_its_node_begins(level: int) -> None:
    L, G, E, span = 2, 2, 16, SMALL**level
    net = LayeredGistNet(L, G, E, Geometry(SMALL, 2))
    for number, parameter in enumerate(net.parameters()):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))
    unrotated, values = normal(L, 1, span, G, E), normal(L, 1, span, G, E, seed=1)
    here, there = (
        gists_of(net, tokens_as_entries(turned(unrotated, start + torch.arange(span)), values), start, level) for start in (0, 5 * span)
    )
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        net.init_weights()
    assert not torch.allclose(gists_of(net, tokens_as_entries(unrotated, values), 0, level).values, here.values, atol=0.05)
