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
from mc.nets.layered_gists import LayeredGistNet, tokens_as_entries
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
