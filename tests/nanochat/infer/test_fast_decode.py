"""The decode step equals the model's forward in every shape, and notices changed weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from nanochat.infer.engine import Engine
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.packed_linear import PackedLinear
from nanochat.infer.sampling import Sampling
from tests.helpers.tiny_model import full_logits, tiny_model

GREEDY = Sampling(temperature=0, max_tokens=20)


@pytest.mark.parametrize(("pattern", "kv_heads", "depth"), list(itertools.product(("L", "SL"), (0, 1, 2), (1, 2, 5))))
def test_hidden_states_equal_those_of_the_forward(pattern: str, kv_heads: int, depth: int) -> None:
    model = tiny_model(window_pattern=pattern, kv_heads=kv_heads, depth=depth, aspect_ratio=32 // depth, head_dim=8)
    rows = torch.randint(61, (3, 40), generator=torch.Generator().manual_seed(depth))
    with torch.no_grad():
        expected = model.backbone(model.embed(rows), model.rotary(0, 40))
    cache = KVCache(model, 3)
    for t in range(40):
        torch.testing.assert_close(cache.append(rows[:, t : t + 1]), expected[:, t], rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_in_bf16_it_is_as_close_to_fp32_as_the_forward_is(rows: int, parameters: torch.dtype) -> None:
    exact, model = tiny_model(), tiny_model(dtype=torch.bfloat16).to(parameters)
    tokens = torch.randint(61, (rows, 30), generator=torch.Generator().manual_seed(rows))
    cache = KVCache(model, rows)
    cache.append(tokens[:, :10])
    decoded = torch.stack([model.logits(cache.append(tokens[:, t : t + 1])) for t in range(10, 30)], dim=1)
    assert decoded.dtype == torch.float32 and cache.hidden.dtype == torch.bfloat16
    wanted = torch.stack([full_logits(exact, row.tolist())[10:] for row in tokens])
    forward = torch.stack([full_logits(model, row.tolist())[10:] for row in tokens])
    assert (decoded - wanted).std() < 1.5 * (forward - wanted).std()


def test_a_row_of_zeros_is_no_trap() -> None:
    """A token whose embedding is zero: the norm must not divide by it."""
    model = tiny_model()
    model.wte.weight[7] = 0
    model.smear_lambda.fill_(0)
    cache, expected = KVCache(model, 1), full_logits(model, [7, 7, 3])
    for t, token in enumerate((7, 7, 3)):
        torch.testing.assert_close(model.logits(cache.append(torch.tensor([[token]])))[0], expected[t], rtol=0, atol=2e-5)


def test_an_engine_sees_weights_that_change() -> None:
    prompts = [[1, 2, 3], [4, 5]]
    model = tiny_model()
    engine = Engine(model)
    engine.generate(prompts, GREEDY)
    model.blocks[0].mlp.c_fc.weight.mul_(-1)
    assert engine.generate(prompts, GREEDY) == Engine(model).generate(prompts, GREEDY)
    model.load_state_dict(tiny_model(seed=1).state_dict())
    assert engine.generate(prompts, GREEDY) == Engine(tiny_model(seed=1)).generate(prompts, GREEDY)


def test_an_engine_sees_weights_in_training_that_change_unseen() -> None:
    model = tiny_model().requires_grad_(True)
    engine = Engine(model)
    engine.generate([[1, 2, 3]], GREEDY)
    for mine, other in zip(model.parameters(), tiny_model(seed=1).parameters(), strict=True):
        mine.data.copy_(other)
    assert engine.generate([[1, 2, 3]], GREEDY) == Engine(tiny_model(seed=1)).generate([[1, 2, 3]], GREEDY)


def test_matrices_of_a_frozen_model_are_arranged_once() -> None:
    model = tiny_model()
    step = DecodeStep(model)
    assert step.up_to_date and step.head is step.head
    assert not DecodeStep(tiny_model().requires_grad_(True)).up_to_date


def test_hidden_states_can_be_trained_on() -> None:
    """The cache returns ordinary tensors: a head on them takes gradients."""
    model = tiny_model()
    cache = KVCache(model, 2)
    cache.append(torch.tensor([[1, 2], [3, 4]]))
    head = torch.nn.Linear(model.config.width, 3)
    head(cache.append(torch.tensor([[5], [6]]))).sum().backward()
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_matrix_is_the_linear_map(dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, x, total = (torch.randn(*size, generator=generator) for size in ((50, 24), (rows, 24), (rows, 50)))
    matrix = PackedLinear(weight, dtype)
    exact = (x.to(dtype).double() @ weight.to(dtype).double().t()).float()
    assert matrix(x).dtype == dtype
    torch.testing.assert_close(matrix(x).float(), exact, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-2)
    added = matrix.add_to(total, x.to(dtype))
    assert added.dtype == torch.float32
    torch.testing.assert_close(added, total + exact, rtol=2e-2, atol=5e-2)
