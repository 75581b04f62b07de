"""Distillation and reconstruction against the formulas written out."""

from __future__ import annotations

import pytest
import torch

from mc.layout.layout import Geometry
from mc.train import gist_losses
from mc.train.gist_losses import SHARE, Reconstruction, distillation_loss
from nanochat.model.cross_entropy import CHUNK_BYTES
from tests.helpers.tiny_memory import WIDTH, randomise, tiny_gpt


def hidden(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 30])
def test_divergence_is_its_definition_in_chunks_of_any_size(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk_bytes)
    model = tiny_gpt().requires_grad_(True)
    teacher, student = hidden(2, 5), hidden(3, 2, 5, seed=1)
    loss = distillation_loss(model, teacher, student)
    loss.backward()
    grads = student.grad, model.lm_head.weight.grad.clone()
    assert teacher.grad is None  # a reference
    student.grad, model.lm_head.weight.grad = None, None
    reference, mine = model.logits(teacher).softmax(-1).detach(), model.logits(student)
    expected = torch.nn.functional.kl_div(mine.log_softmax(-1), reference.expand_as(mine), reduction="none").sum(-1).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads, (student.grad, model.lm_head.weight.grad))


def test_equal_predictions_do_not_diverge() -> None:
    same = hidden(2, 5)
    assert distillation_loss(tiny_gpt(), same, same.expand(3, 2, 5, WIDTH)).item() == pytest.approx(0, abs=1e-6)
    assert gist_losses.CHUNK_BYTES is CHUNK_BYTES


@pytest.mark.parametrize("slots", [1, 2])
def test_reconstruction_tells_one_block_in_four_from_its_own_gist(slots: int) -> None:
    model, decoder = tiny_gpt(), Reconstruction(WIDTH, Geometry(8, slots))
    randomise(decoder, 3)
    blocks = 6
    tokens = torch.randint(61, (2, blocks * 8), generator=torch.Generator().manual_seed(0))
    for first in range(SHARE + 1):
        gists = hidden(2, blocks * slots)
        decoder(model, gists, tokens, first).backward()
        told = gists.grad.unflatten(1, (blocks, slots)).abs().sum((0, 2, 3)) > 0
        assert told.nonzero().flatten().tolist() == [f for f in range(blocks) if f % SHARE == first % SHARE]


def test_reconstruction_learns_what_a_gist_holds() -> None:
    """The gist of a block is the embedding of its only token: after some steps the decoder says which."""
    model, decoder = tiny_gpt(), Reconstruction(WIDTH, Geometry(8)).init_weights(torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    generator, losses = torch.Generator().manual_seed(1), []
    for step in range(60):
        block_tokens = torch.randint(61, (4, 8), generator=generator)
        loss = decoder(model, model.embed(block_tokens).x, block_tokens.repeat_interleave(8, dim=1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
