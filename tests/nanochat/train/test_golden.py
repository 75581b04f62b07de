"""Losses of a tiny run, pinned: a change that alters the mathematics shows here, one that does not leaves them alone.

Where a change of the mathematics is meant, the new values belong into the same commit.
"""

import pytest
import torch

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.objective import NextTokenObjective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan

FRESH = 4.574942
TRAINED = [4.735322, 4.185567, 3.781587, 3.479948, 3.247980, 3.067214]


def build(backend: str, chunked_ce: bool) -> tuple[NextTokenObjective, torch.Generator]:
    g = torch.Generator().manual_seed(1)
    config = GPTConfig(depth=3, aspect_ratio=16, head_dim=16, kv_heads=1, max_seq_len=48, window_pattern="SL", vocab_size=97)
    model = GPT(config, torch.float32, backend).init_weights(g).use_kernels(compiled=False, chunked_ce=chunked_ce)
    return NextTokenObjective(model), g


def rows(g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(97, (4, 49), generator=g)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("backend", ["sdpa", "blocked"])
@pytest.mark.parametrize("chunked_ce", [False, True])
def test_five_steps_give_the_pinned_losses(backend, chunked_ce):
    objective, g = build(backend, chunked_ce)
    with torch.no_grad():
        for p in objective.parameters():  # a fresh model has zeros, whose gradients Muon and AdamW amplify from rounding errors
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    tokens, targets = rows(g)
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(lr_mult=0.1), TrainPlan(192, 10, 1.0, 1.0)))
    losses = []
    for step in range(6):
        loss = objective(tokens, targets, progress=step / 10).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.reduce_gradients()
        optimizer.step(lr=1 - step / 10, momentum=0.85 + step / 100, weight_decay=1 - step / 20)
    assert losses == pytest.approx(TRAINED, rel=1e-5)


def test_a_fresh_model_has_the_pinned_loss():
    objective, g = build("sdpa", chunked_ce=False)
    assert objective(*rows(g), progress=0.0).loss.item() == pytest.approx(FRESH, rel=1e-5)
