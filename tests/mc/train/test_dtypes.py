"""Models and auxiliary networks of different dtypes: what meets the model is in the model's."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.tiny_memory import tiny_batch, tiny_memory

PAIRS = [
    (torch.bfloat16, "fp32", torch.float32),
    (torch.float16, "fp32", torch.float32),
    (torch.float32, "bf16", torch.bfloat16),
    (torch.float16, "bf16", torch.bfloat16),
    (torch.bfloat16, "auto", torch.bfloat16),
    (torch.float16, "auto", torch.float16),
]


@pytest.mark.parametrize("gist", [{"gistnet_pooling": "cls", "gist_slots": 2}, {"gistnet_type": "context", "gistnet_pooling": "query"}])
@pytest.mark.parametrize(("dtype", "aux_dtype", "aux"), PAIRS)
def test_forward_and_backward(dtype: torch.dtype, aux_dtype: str, aux: torch.dtype, gist: dict) -> None:
    weights = {"mc_joint": "0.5", "mc_gist_kl_weight": 0.1, "mc_gist_recon_weight": 0.1}
    memory = tiny_memory(dtype=dtype, gist=gist, mc_max_lod=1, mc_aux_dtype=aux_dtype, **weights)
    inside: list[torch.dtype] = []
    for net in (memory.gistnet.c_out, memory.focus.lensnet.c_score):
        net.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    backbone: list[torch.dtype] = []
    for block in memory.model.blocks:
        block.register_forward_hook(lambda module, inputs, output: backbone.append(output.dtype))
    result = memory.process_batch(*tiny_batch(), 0.5)
    assert set(inside) == {aux} and set(backbone) == {dtype} and len(backbone) == 2 * len(memory.model.blocks)
    assert result.cached_embeddings.dtype == dtype and result.loss.dtype == torch.float32
    assert {part.dtype for part in result.positional_caches["variants"]} == {dtype}

    reference = tiny_memory(gist=gist, mc_max_lod=1, **weights).process_batch(*tiny_batch(), 0.5)
    torch.testing.assert_close(result.loss, reference.loss, rtol=0.03, atol=0)
    result.loss.backward()
    for name, parameter in memory.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
