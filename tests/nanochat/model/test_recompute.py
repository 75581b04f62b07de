"""Layers that recompute: the same bits, fewer bytes, compiled or not."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy

from nanochat.model.attention import AttentionBackend
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.model.recompute import ActivationCheckpointing, Recompute, _keeps
from nanochat.profiling.device_memory import Pass, Setting, activation_bytes
from tests.helpers.saved_tensors import live_bytes
from tests.helpers.tiny_model import tiny_model

MODES: list[tuple[Recompute, int]] = [("full", 1), ("selective", 1), ("full", 2)]
ROWS = torch.randint(61, (3, 25), generator=torch.Generator().manual_seed(2))


def trained(model: GPT, rows: Tensor = ROWS) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients."""
    loss = model.requires_grad_(True)(rows[:, :-1], rows[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("mode", "every"), MODES)
@pytest.mark.parametrize("backend", ["blocked", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_loss_and_gradients_are_the_same_bits(mode: Recompute, every: int, backend: AttentionBackend, dtype: torch.dtype) -> None:
    results = []
    for recompute in (None, ActivationCheckpointing(mode, every)):
        model = tiny_model(dtype=dtype, window_pattern="SL", kv_heads=2)
        model.backend = backend
        results.append(trained(model.use_kernels(False, True, recompute=recompute)))
    (loss, gradients), (again, recomputed) = results
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_the_compiler_takes_a_whole_layer(mode: Recompute) -> None:
    """With what it emits left out: that takes minutes. Up to rounding, as the compiler may reorder."""
    results = []
    for recompute in (None, ActivationCheckpointing(mode)):
        torch._dynamo.reset()
        model = tiny_model(depth=2, window_pattern="SL").use_kernels(False, True, recompute=recompute)
        if recompute is not None:
            model.blocks[0].compile(backend="aot_eager_decomp_partition", dynamic=False, fullgraph=True)
        results.append(trained(model))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mode", "every"), MODES)
@pytest.mark.parametrize(("dtype", "backend"), [(torch.float32, "blocked"), (torch.bfloat16, "sdpa")], ids=["fp32", "bf16"])
def test_what_is_alive_is_what_the_estimate_says(mode: Recompute, every: int, dtype: torch.dtype, backend: AttentionBackend) -> None:
    config = GPTConfig(depth=4, aspect_ratio=64, head_dim=64, kv_heads=2, max_seq_len=256, window_pattern="L", vocab_size=512)
    recompute = ActivationCheckpointing(mode, every)
    alive, told = [], []
    for chosen in (ActivationCheckpointing(), recompute):
        model = GPT(config, dtype, backend).init_weights(torch.Generator().manual_seed(0)).use_kernels(False, True, recompute=chosen)
        tokens = torch.randint(config.vocab_size, (4, 257))
        alive.append(live_bytes(model, lambda model=model, tokens=tokens: model(tokens[:, :-1], tokens[:, 1:])))
        setting = Setting(dtype, "cpu", backend, compiled=False, recompute=chosen)
        weights = sum(p.numel() for p in model.blocks[0].parameters()) * sum(chosen.of_layer(i) == "none" for i in range(4))
        told.append(activation_bytes(config, Pass(4, 256, False), setting) + dtype.itemsize * weights * (dtype != torch.float32))
    assert told == [pytest.approx(size, rel=0.2) for size in alive]
    assert told[0] - told[1] == pytest.approx(alive[0] - alive[1], rel=0.15)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("aten::mm", True),
        ("aten::mm.dtype", True),
        ("aten::_scaled_dot_product_flash_attention", True),
        ("nanochat::blocked_attention", True),
        ("flash_attn_3::fwd", True),  # FlashAttention 3 says what it does in its namespace only
        ("flex_attention", True),  # as is a higher-order operation: it has no namespace
        ("aten::sigmoid", False),
        ("aten::mul.Tensor", False),
    ],
)
def test_selective_keeps_matmuls_and_attention(name: str, kept: bool) -> None:
    policy = _keeps(None, SimpleNamespace(name=lambda: name))
    assert policy == (CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE)


def test_evaluation_recomputes_nothing() -> None:
    model = tiny_model().use_kernels(False, True, recompute=ActivationCheckpointing("full"))
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        model(ROWS[:, :-1], ROWS[:, 1:])
    assert calls == [False]


def test_every_nth_layer() -> None:
    assert [ActivationCheckpointing("full", 3).of_layer(i) for i in range(7)] == ["full", "none", "none"] * 2 + ["full"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation_checkpointing": "some"}, "must be one of none, selective, full"),
        ({"activation_checkpointing": "full", "activation_checkpointing_every": 0}, "must be at least 1"),
        ({"activation_checkpointing_every": 2}, "has no effect without --activation-checkpointing"),
    ],
)
def test_bad_settings(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ActivationCheckpointing(), **values)
