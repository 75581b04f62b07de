"""What the model learns from its memory: nothing bit for bit, a share, or as much as from plain rows."""

from __future__ import annotations

import pytest
import torch

from mc.train.controller import MCController
from nanochat.model.cross_entropy import ChunkedCrossEntropy
from nanochat.train.objective import NextTokenObjective, Objective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from tests.helpers.tiny_memory import SEQ_LEN, assert_training_moves_everything, tiny_batch, tiny_gpt, tiny_memory

KINDS = ({"gistnet_type": "layered", "gist_slots": 2}, {"gistnet_type": "context"}, {"gistnet_type": "transformer"})


def train(objective: Objective, steps: int, clip: float, weights: torch.Tensor | None = None) -> list[float]:
    """The losses of the model, learning at rates that would show any difference."""
    optimizer = MuonAdamW(objective.parameter_groups(OptimFlags(), TrainPlan(SEQ_LEN, steps, 1.0, 1.0)))
    losses = []
    for step in range(steps):
        result = objective(*tiny_batch(3, seed=step), step / steps, weights)
        result.total.backward()
        optimizer.reduce_gradients()
        optimizer.clip_gradients(clip)
        optimizer.step()
        losses.append(result.loss.item())
    return losses


@pytest.mark.parametrize("gist", KINDS)
@pytest.mark.parametrize(("dtype", "clip"), [(torch.float32, 0.0), (torch.bfloat16, 0.1), (torch.float16, 0.1)])
@pytest.mark.parametrize("chunked", [False, True])
def test_by_default_the_model_is_bit_for_bit_that_of_no_memory(gist: dict, dtype: torch.dtype, clip: float, chunked: bool) -> None:
    memory = tiny_memory(gist=gist, dtype=dtype, lens_loss={"mc_lens_loss_weight": 1.0})
    alone = NextTokenObjective(tiny_gpt(dtype=dtype).requires_grad_(True))
    before = {name: p.clone() for name, p in memory.named_parameters()}
    if chunked:
        memory.model.cross_entropy, alone.model.cross_entropy = ChunkedCrossEntropy(False), ChunkedCrossEntropy(False)
    weights = torch.tensor([1.0, -0.5, 2.0]) if chunked else None
    assert train(memory, 6, clip, weights) == train(alone, 6, clip, weights)
    for (name, mine), theirs in zip(memory.model.state_dict().items(), alone.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    for name, p in memory.named_parameters():
        assert not torch.equal(p, before[name]) or name.startswith("reconstruction"), f"{name} did not learn"


@pytest.mark.slow
@pytest.mark.parametrize("gist", KINDS[:1])
def test_so_it_is_with_compiled_kernels(gist: dict) -> None:
    torch._dynamo.reset()
    memory, alone = tiny_memory(gist=gist, dtype=torch.bfloat16), NextTokenObjective(tiny_gpt(dtype=torch.bfloat16).requires_grad_(True))
    for model in (memory.model, alone.model):
        model.use_kernels(compiled=True, chunked_ce=True)
    memory.use_kernels(compiled=True)
    assert train(memory, 6, 0.1) == train(alone, 6, 0.1)
    for (name, mine), theirs in zip(memory.model.state_dict().items(), alone.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("gist", KINDS)
def test_a_weight_lets_the_memory_teach_the_model(gist: dict) -> None:
    tokens, targets = tiny_batch(2)
    half, tenth = (tiny_memory(gist=gist, mc_joint=weight) for weight in ("0.5", "0.1"))
    a, b = (memory.process_batch(tokens, targets, 0.5) for memory in (half, tenth))
    assert a.apart is None and torch.equal(a.loss_lod0, b.loss_lod0)
    told = a.metrics["mc/gist_kl"] + 0.1 * a.lens_loss
    torch.testing.assert_close(a.loss.detach(), a.loss_lod0 + 0.5 * told)
    torch.testing.assert_close(b.loss.detach(), b.loss_lod0 + 0.1 * told)
    a.loss.backward()
    b.loss.backward()
    for name, p, q in ((name, p, q) for (name, p), q in zip(half.named_parameters(), tenth.parameters(), strict=True)):
        if name.startswith("model."):
            assert not torch.equal(p.grad, q.grad), name
        else:
            torch.testing.assert_close(p.grad, 5 * q.grad, rtol=1e-4, atol=1e-7)


def test_a_trained_model_is_taught_by_what_it_was() -> None:
    tokens, targets = tiny_batch(2)
    fresh, trained = (
        MCController(tiny_gpt().requires_grad_(True), tiny_memory(mc_joint="0.5").config, SEQ_LEN, pretrained=trained).init_weights(
            torch.Generator().manual_seed(1)
        )
        for trained in (False, True)
    )
    assert len(trained.teachers) == 1 and not fresh.teachers
    assert fresh.state_dict().keys() == trained.state_dict().keys(), "the copy is in no checkpoint"
    assert len(list(fresh.parameters())) == len(list(trained.parameters())) and fresh.flops_per_token() < trained.flops_per_token()
    now, then = (memory.process_batch(tokens, targets, 0.5).metrics["mc/gist_kl"] for memory in (fresh, trained))
    torch.testing.assert_close(now, then)
    for memory in (fresh, trained):
        memory.draw = 0
        memory.model.lm_head.weight.data.mul_(1.5)
    now, then = (memory.process_batch(tokens, targets, 0.5).metrics["mc/gist_kl"] for memory in (fresh, trained))
    assert then > now + 1e-3, "the teacher stays where the model was"
    for joint in ("0", "mean"):
        assert not MCController(tiny_gpt(), tiny_memory(mc_joint=joint).config, SEQ_LEN, pretrained=True).teachers


def test_the_rows_that_have_variants_take_turns() -> None:
    memory, seen = tiny_memory(mc_rows_every=2), []
    build = memory.build_bank
    tokens, targets = tiny_batch(3)
    memory.build_bank = lambda plain, compiled: seen.append(plain.embedded.x) or build(plain)
    for _ in range(3):
        memory.process_batch(tokens, targets, 0.5)
    x = memory.model.embed(tokens).x
    for rows, embedded in zip(([0, 2], [1, 0], [2, 1]), seen, strict=True):
        assert torch.equal(embedded, x[rows])


@pytest.mark.parametrize("joint", ["0", "0.1", "mean"])
@pytest.mark.parametrize("lod", [1, 2])
def test_all_of_a_layered_memory_learns(joint: str, lod: int) -> None:
    for prefix in ("gistnet.", "focus.lensnet."):
        memory = tiny_memory(gist={"gistnet_type": "layered"}, mc_joint=joint, mc_max_lod=lod, mc_priority_sampling=True)
        assert_training_moves_everything(memory, prefix)
