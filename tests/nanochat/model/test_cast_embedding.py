"""A table that is cast once per step gives what casting every row gives, and is never stale."""

from __future__ import annotations

import pytest
import torch

from nanochat.model.cast_embedding import CastEmbedding
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from tests.helpers.fake_group import FakeGroup

BF16 = torch.bfloat16
TOKENS = torch.tensor([[1, 5, 5, 5], [0, 1, 299, 5]])


def table() -> CastEmbedding:
    torch.manual_seed(0)
    return CastEmbedding(300, 16)


def test_rows_and_gradients_are_those_of_a_lookup_that_is_cast() -> None:
    mine, theirs = table(), table()
    dy = torch.randn(2, 4, 16).to(BF16)
    for _ in range(2):  # two micro-batches
        got, expected = mine.rows(TOKENS, BF16), theirs(TOKENS).to(BF16)
        assert got.dtype == BF16 and torch.equal(got, expected)
        got.backward(dy)
        expected.backward(dy)
    assert mine.weight.grad.dtype == torch.float32 and torch.equal(mine.weight.grad, theirs.weight.grad)


def test_it_is_cast_once_until_the_weights_change() -> None:
    embedding = table()
    embedding.rows(TOKENS, BF16)
    first = embedding._table
    embedding.rows(TOKENS, BF16)
    assert embedding._table is first
    embedding.load_state_dict({"weight": torch.ones(300, 16)})
    assert torch.equal(embedding.rows(TOKENS, BF16), torch.ones(2, 4, 16, dtype=BF16))


def test_without_gradients_or_in_fp32_nothing_is_cast() -> None:
    embedding = table()
    with torch.no_grad():
        assert torch.equal(embedding.rows(TOKENS, BF16), embedding(TOKENS).to(BF16))
    assert torch.equal(embedding.rows(TOKENS, torch.float32), embedding(TOKENS))
    embedding.requires_grad_(False)
    embedding.rows(TOKENS, BF16)
    assert embedding._table is None


@pytest.mark.parametrize("world", [1, 2])
def test_an_optimizer_step_makes_it_stale(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both where a process owns the table and where it owns a part; it must be of the size that is split."""
    if world > 1:
        FakeGroup(world, monkeypatch)
    objective = NextTokenObjective(
        GPT(GPTConfig(depth=2, aspect_ratio=64, head_dim=64, max_seq_len=8, window_pattern="L", vocab_size=1024), BF16)
    )
    model = objective.model.init_weights()
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(256, 1, 1.0, 1.0)))
    for _ in range(2):
        model(TOKENS, TOKENS).backward()
        before = model.value_embeds._table
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.reduce_gradients()
        for unit in optimizer._units:
            unit.grad = torch.ones_like(unit.grad)
        optimizer.step()
        rows = model.value_embeds.rows(TOKENS, BF16)
        assert model.value_embeds._table is not before
        assert torch.equal(rows, model.value_embeds.weight.detach().to(BF16)[TOKENS])
