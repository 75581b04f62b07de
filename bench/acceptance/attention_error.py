"""Part `attention`: forward and backward of each backend against attention in fp32, by its definition."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.model.attention import AttentionBackend, attention, suits, trouble, visible

# Relative root mean square error. On a CPU in bf16, outputs are off by up to 0.004 and gradients by up to 0.006.
BOUND = {torch.bfloat16: 0.01, torch.float32: 2e-5}


class Case(NamedTuple):
    """A shape of attention."""

    heads: int
    key_heads: int
    head_dim: int
    window: int
    length: int

    def __str__(self) -> str:
        return f"T {self.length}, H {self.heads}, G {self.key_heads}, E {self.head_dim}, window {self.window or 'none'}"


CASES = (
    Case(8, 8, 128, 0, 2048),
    Case(8, 8, 128, 512, 2048),
    Case(8, 2, 128, 0, 2048),
    Case(8, 2, 64, 512, 2048),
    Case(8, 4, 128, 300, 1000),  # no multiple of any block
)
TOY_CASES = (Case(4, 4, 16, 0, 256), Case(4, 2, 16, 64, 256), Case(4, 1, 8, 37, 300))


def run(lab: Lab, record: Record) -> None:
    """Tries every backend on every shape."""
    device = torch.device(lab.device_type)
    dtype = torch.float32 if lab.toy else torch.bfloat16
    for backend in get_args(AttentionBackend):
        if not suits(backend, device, dtype):
            record.skip(backend, f"it does not run on {device} in {dtype}")
        elif why := trouble(backend, device, dtype):
            if backend == "fa3" and "NotFound" in why:
                record.skip(backend, f"FlashAttention 3 is not installed: {why}")
            else:
                record.equal(f"{backend} runs", False, True, why)
        else:
            for case in TOY_CASES if lab.toy else CASES:
                names, errors = ("output", "dq", "dk", "dv"), compare(backend, case, device, dtype)
                worst = max(range(4), key=lambda i: errors[i])  # noqa: B023
                record.at_most(f"{backend}: {case}", errors[worst], BOUND[dtype], f"relative error of {names[worst]}, the largest")


def compare(backend: AttentionBackend, case: Case, device: torch.device, dtype: torch.dtype) -> list[float]:
    """Relative errors of the output and of the gradients of q, k and v."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = (case.heads, case.key_heads, case.key_heads, case.heads)
    q, k, v, dy = (torch.randn(2, case.length, heads, case.head_dim, device=device, dtype=dtype, generator=generator) for heads in sizes)
    results = []
    for wanted in (None, backend):
        inputs = [(part if wanted else part.float()).detach().requires_grad_() for part in (q, k, v)]
        y = attention(*inputs, case.window, wanted) if wanted else defined(*inputs, case.window)
        results.append([y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))])
    return [relative_error(got, expected) for expected, got in zip(*results, strict=True)]


def defined(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention by its definition, as `nanochat.model.attention.attention`."""
    repeat, T = q.shape[2] // k.shape[2], q.shape[1]
    k, v = (part.repeat_interleave(repeat, dim=2) for part in (k, v))
    positions = torch.arange(T, device=q.device)
    scores = torch.einsum("bthe,bshe->bhts", q, k) * q.shape[3] ** -0.5
    scores = scores.masked_fill(~visible(positions[:, None], positions, window), float("-inf"))
    return torch.einsum("bhts,bshe->bthe", scores.softmax(-1), v)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to that of `expected`."""
    return ((got.float() - expected).norm() / expected.norm()).item()
