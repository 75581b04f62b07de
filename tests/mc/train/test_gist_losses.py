"""Distillation and reconstruction against the formulas written out."""

from __future__ import annotations

import pytest
import torch

from mc.layout.layout import Geometry
from mc.train.gist_losses import SHARE, Distillation, Reconstruction
from nanochat.model.cross_entropy import CHUNK_BYTES, IGNORE
from tests.helpers.tiny_memory import WIDTH, randomise, tiny_gpt


def hidden(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 1 << 30])
def test_divergence_is_its_definition_in_chunks_of_any_size(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk_bytes)
    model, other = tiny_gpt().requires_grad_(True), tiny_gpt(seed=1)
    weight, head = model.lm_head.weight, other.lm_head.weight
    teacher, student = hidden(2, 5), hidden(3, 2, 5, seed=1)
    targets = torch.randint(61, (2, 5), generator=torch.Generator().manual_seed(2))
    targets[1, 2:] = IGNORE
    loss, losses = Distillation()(student, weight, teacher, head, targets)
    (2 * loss).backward()
    grads = student.grad / 2, weight.grad.clone() / 2
    assert teacher.grad is None and head.grad is None and not losses.requires_grad  # a reference
    student.grad, weight.grad = None, None
    reference, mine = other.logits(teacher).softmax(-1).detach(), model.logits(student)
    expected = torch.nn.functional.kl_div(mine.log_softmax(-1), reference.expand_as(mine), reduction="none").sum(-1).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads, (student.grad, weight.grad))
    each = torch.nn.functional.cross_entropy(mine.flatten(0, 2), targets.expand(3, 2, 5).flatten(), reduction="none", ignore_index=IGNORE)
    torch.testing.assert_close(losses, each.view(3, 2, 5))


def test_what_does_not_learn_gets_no_gradient() -> None:
    weight, student, teacher = tiny_gpt().lm_head.weight, hidden(3, 2, 5), hidden(2, 5)
    targets = torch.zeros(2, 5, dtype=torch.int64)
    Distillation()(student, weight, teacher, weight, targets)[0].backward()
    assert student.grad is not None and weight.grad is None
    loss, _ = Distillation()(student.detach(), weight, teacher, weight, targets)
    assert not loss.requires_grad


def test_equal_predictions_do_not_diverge() -> None:
    same, weight = hidden(2, 5), tiny_gpt().lm_head.weight
    loss, _ = Distillation()(same.expand(3, 2, 5, WIDTH), weight, same, weight, torch.zeros(2, 5, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-6)


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
