"""Variants get narrower over a run: what is compiled for the first width serves the others, and computes what eager layers do."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from mc.config import MCConfig
from mc.nets.gistnet import GistConfig
from mc.row_plan import LENGTHS
from mc.train.controller import MCController
from nanochat.model import gpt
from nanochat.model.attention import AttentionBackend
from nanochat.model.gpt import GPT, GPTConfig

SEQ_LEN = 128


def controller(kind: str, backend: AttentionBackend, compiled: bool) -> MCController:
    shape = GPTConfig(depth=2, aspect_ratio=16, head_dim=16, max_seq_len=SEQ_LEN, window_pattern="SL", vocab_size=61)
    model = GPT(shape, torch.float32, backend).init_weights(torch.Generator().manual_seed(0)).use_kernels(compiled, chunked_ce=False)
    for block in model.blocks:
        nn.init.normal_(block.attn.c_proj.weight, std=0.05, generator=torch.Generator().manual_seed(2))
    flags = {"mc_train_wc_length": 56, "mc_training_lod2_probability": 0.0, "mc_num_random_variants": 2, "mc_rows_every": 1}
    config = MCConfig(mc_enabled=True, block_size=8, gist=GistConfig(gistnet_type=kind), **flags)
    memory = MCController(model, config, SEQ_LEN).init_weights(torch.Generator().manual_seed(1))
    return memory.use_kernels(compiled)


@pytest.mark.parametrize("kind", ["layered", "mean"])
def test_a_model_that_is_not_compiled_compiles_no_variant(kind: str) -> None:
    memory, tokens = controller(kind, "blocked", compiled=False), torch.zeros(2, SEQ_LEN + 1, dtype=torch.int64)
    torch._dynamo.utils.counters.clear()
    memory(tokens[:, :-1], tokens[:, 1:], 0.0).total.backward()
    assert not torch._dynamo.utils.counters["frames"]


@pytest.mark.parametrize(("kind", "backend"), [("layered", "blocked"), ("mean", "blocked"), ("mean", "sdpa")])
def test_no_width_is_compiled_after_the_first(kind: str, backend: AttentionBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile  # graphs are what counts here, not the machine code of them
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiler(function, backend="eager", **options))
    torch._dynamo.reset()
    cached = (gpt._compiled_heads, gpt._compiled_for_any_width)
    for each in cached:
        each.cache_clear()
    fast, plain = (controller(kind, backend, compiled) for compiled in (True, False))
    graphs, widths = [], []
    for step in (0, 1, 4, 7):  # of the stages
        tokens = torch.randint(61, (2, SEQ_LEN + 1), generator=torch.Generator().manual_seed(step))
        results = [each(tokens[:, :-1], tokens[:, 1:], step / LENGTHS) for each in (fast, plain)]
        for result in results:
            result.total.backward()
        torch.testing.assert_close(results[0].total, results[1].total, rtol=1e-4, atol=1e-5)
        widths.append(int(results[0].metrics["mc/variant_width"]))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for each in cached:
        each.cache_clear()
    assert len(set(widths)) == 4
    assert graphs[-1] == graphs[1] and graphs[0] <= 30, f"graphs after each step: {graphs}"  # LensNet learns in every second one
    for (name, mine), other in zip(fast.gistnet.named_parameters(), plain.gistnet.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
