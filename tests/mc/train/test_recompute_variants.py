"""Rows and their variants with layers that recompute: the same bits, although the model's parameters learn again in the backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.model.recompute import ActivationCheckpointing
from tests.helpers.tiny_memory import tiny_batch, tiny_memory

SETTINGS: dict[str, dict[str, Any]] = {
    "apart": {},
    "joint": {"mc_joint": "0.1"},
    "mean": {"mc_joint": "mean"},
    "frozen": {"mc_freeze_model": True},
    "layered": {"gist": {"gistnet_type": "layered"}, "mc_rows_every": 1},
}


def trained(dtype: torch.dtype, recompute: ActivationCheckpointing | None, **config: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients."""
    memory = tiny_memory(dtype=dtype, model={"window_pattern": "SL"}, mc_compile_variants=False, **config)
    memory.model.use_kernels(False, True, recompute=recompute)
    loss = memory(*tiny_batch(4), 0.5).total
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in memory.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_loss_and_gradients_are_the_same_bits(config: dict[str, Any], dtype: torch.dtype) -> None:
    loss, gradients = trained(dtype, None, **config)
    assert any(gradient is not None for gradient in gradients.values())
    for mode in ("full", "selective"):
        again, recomputed = trained(dtype, ActivationCheckpointing(mode), **config)
        assert torch.equal(loss, again)
        for name, gradient in gradients.items():
            assert recomputed[name] is None if gradient is None else torch.equal(gradient, recomputed[name]), name
