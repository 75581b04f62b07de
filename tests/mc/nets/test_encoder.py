"""The bidirectional encoder against its definition, item by item."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mc.nets.encoder import HEAD_DIM, Encoder, init_encoder, init_linear
from nanochat.model.block import rotary_at, rotate
from nanochat.model.norm import norm
from tests.helpers.tiny_memory import randomise

WIDTH = 2 * HEAD_DIM


def slow(encoder: Encoder, x: Tensor) -> Tensor:
    """[C,D] → [C,D] in fp64."""
    C = len(x)
    rotary = rotary_at(torch.arange(C), HEAD_DIM, torch.float64)
    x = x.double()
    for block in encoder.blocks:
        p = {name: value.double() for name, value in block.named_parameters()}
        q, k, v = (norm(x) @ p["c_qkv.weight"].T).chunk(3, dim=1)
        heads = []
        for h in range(0, WIDTH, HEAD_DIM):
            mine = slice(h, h + HEAD_DIM)
            a, b = (rotate(1.2 * norm(t[None, :, None, mine]), rotary)[0, :, 0] for t in (q, k))
            heads.append((a @ b.T / math.sqrt(HEAD_DIM)).softmax(1) @ v[:, mine])
        x = x + torch.cat(heads, dim=1) @ p["c_proj.weight"].T
        x = x + (norm(x) @ p["mlp.c_fc.weight"].T).relu().square() @ p["mlp.c_proj.weight"].T
    return norm(x)


def test_it_is_its_definition() -> None:
    encoder = Encoder(WIDTH, 2)
    randomise(encoder, 0)
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    got = encoder(x, rotary_at(torch.arange(5), HEAD_DIM, torch.float32))
    assert got.shape == x.shape
    for n in range(3):
        torch.testing.assert_close(got[n].double(), slow(encoder, x[n]), rtol=0, atol=2e-5)


def test_every_item_sees_every_other() -> None:
    encoder = Encoder(WIDTH, 1)
    randomise(encoder, 0)
    x = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = encoder(x, rotary_at(torch.arange(6), HEAD_DIM, torch.float32))
    for i in range(6):
        gradient = torch.autograd.grad(y[0, i, 0], x, retain_graph=True)[0]
        assert (gradient[0].abs().sum(1) > 1e-6).all()


def test_at_the_start_it_passes_on_what_it_gets() -> None:
    encoder = Encoder(WIDTH, 2)
    init_encoder(encoder, torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder(x, rotary_at(torch.arange(5), HEAD_DIM, torch.float32)), norm(x))
    # And what does not matter yet is ready to: no dead matrix behind a zero one.
    for block in encoder.blocks:
        assert block.c_qkv.weight.std() > 0 and block.mlp.c_fc.weight.std() > 0


def test_initial_weights_have_the_deviation_of_their_fan_in() -> None:
    for fan_in in (16, 400):
        weight = torch.empty(500, fan_in)
        init_linear(weight, torch.Generator().manual_seed(0), gain=0.4)
        assert abs(weight.std() * fan_in**0.5 - 0.4) < 0.01
        assert weight.abs().max() <= 0.4 * (3 / fan_in) ** 0.5
