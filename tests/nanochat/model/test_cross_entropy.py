import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanochat.model.cross_entropy import CHUNK_BYTES, IGNORE, SOFTCAP, ChunkedCrossEntropy, plain_cross_entropy, softcap

chunked = ChunkedCrossEntropy(compiled=False)
WIDE = 1 << 16  # a vocabulary with few rows to a chunk
ROWS = CHUNK_BYTES["cpu"] // (WIDE * 4)


def draw(N: int, D: int, V: int, ignored: float = 0.0, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = scale * torch.randn(N, D, generator=g), torch.randn(V, D, generator=g)
    targets = torch.randint(V, (N,), generator=g)
    targets[torch.rand(N, generator=g) < ignored] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def run(function, hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str) -> list[Tensor]:
    """Loss and gradients; the losses of `none` get different weights, and every loss a factor as a loss scale would be."""
    loss = function(hidden, weight, targets, reduction)
    share = torch.linspace(0.5, 2.0, loss.numel()) if reduction == "none" else torch.tensor(0.7)
    return [loss.detach(), *torch.autograd.grad((loss * share).sum(), (hidden, weight))]


def same(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and y.isfinite().all()
        torch.testing.assert_close(x, y, rtol=2e-4, atol=6e-6 * max(1.0, y.abs().max().item()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.integers(2, 50), st.sampled_from([0, 0.3, 1]), st.sampled_from(["mean", "none"]))
def test_chunked_is_plain(N, D, V, ignored, reduction):
    inputs = draw(N, D, V, ignored)
    same(run(chunked, *inputs, reduction), run(plain_cross_entropy, *inputs, reduction))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("N", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 1])
def test_chunked_is_plain_at_the_borders_of_chunks(N, reduction):
    inputs = draw(N, 3, WIDE, 0.1)
    same(run(chunked, *inputs, reduction), run(plain_cross_entropy, *inputs, reduction))


@pytest.mark.parametrize("function", [chunked, plain_cross_entropy])
def test_the_loss_is_cross_entropy_of_softcapped_logits(function):
    hidden, weight, targets = draw(20, 8, 30, 0.3)
    logits = hidden.double() @ weight.double().t()
    p = (SOFTCAP * torch.tanh(logits / SOFTCAP)).softmax(-1).detach()
    expected = torch.tensor([0.0 if t == IGNORE else -math.log(p[i, t]) for i, t in enumerate(targets)])
    torch.testing.assert_close(function(hidden, weight, targets, "none"), expected)
    torch.testing.assert_close(function(hidden, weight, targets), expected.sum() / (targets != IGNORE).sum())
    torch.testing.assert_close(softcap(logits), SOFTCAP * torch.tanh(logits / SOFTCAP).float())


@pytest.mark.parametrize("function", [chunked, plain_cross_entropy])
def test_where_nothing_counts_the_mean_is_zero(function):
    hidden, weight, _ = draw(5, 4, 7)
    loss, dhidden, dweight = run(function, hidden, weight, torch.full((5,), IGNORE), "mean")
    assert loss == 0 and not dhidden.any() and not dweight.any()


@pytest.mark.parametrize("size", [1e3, 1e4])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_huge_logits_stay_finite(size, reduction):
    hidden, weight, targets = draw(30, 4, 50, scale=size)
    assert (hidden @ weight.t()).abs().max() > size
    same(run(chunked, hidden, weight, targets, reduction), run(plain_cross_entropy, hidden, weight, targets, reduction))


def test_nan_is_not_hidden():
    hidden, weight, targets = draw(5, 4, 7)
    with torch.no_grad():
        hidden[2, 1] = math.nan
    assert chunked(hidden, weight, targets).isnan()
    assert chunked(hidden, weight, targets, "none").isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_bf16_is_as_good_as_bf16_is(reduction):
    hidden, weight, targets = (t.detach() for t in draw(600, 64, 500, 0.1))
    low = [t.bfloat16().requires_grad_() for t in (hidden, weight / 8)]
    reference = [t.detach().float().requires_grad_() for t in low]
    got = run(chunked, *low, targets, reduction)
    for a, b in zip(got, run(plain_cross_entropy, *reference, targets, reduction), strict=True):
        assert (a.float() - b).norm() / b.norm() < 0.01
    assert [t.dtype for t in got] == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_a_loss_scale_keeps_fp16_gradients_from_underflow():
    hidden, weight, targets = (t.detach() for t in draw(512, 8, 20000))
    scale = 2.0**16
    reference = [t.clone().requires_grad_() for t in (hidden, weight / 8)]
    expected = torch.autograd.grad(plain_cross_entropy(*reference, targets), reference)
    half = [t.detach().half().requires_grad_() for t in reference]
    got = torch.autograd.grad(chunked(*half, targets) * scale, half)
    other = torch.ones(20000, dtype=torch.bool).index_fill(0, targets, False)  # tokens that are no target: 1e-7 per prediction
    for a, b in [(got[0], expected[0]), (got[1][other], expected[1][other])]:
        assert (a.float() / scale - b).norm() / b.norm() < 0.02


def test_without_gradients_none_are_computed():
    inputs = draw(50, 4, 20, 0.2)
    with torch.no_grad():
        assert not chunked(*inputs).requires_grad
        torch.testing.assert_close(chunked(*inputs), plain_cross_entropy(*inputs))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_head_that_does_not_learn_costs_no_gradient(reduction, monkeypatch):
    hidden, weight, targets = draw(50, 4, 20, 0.2)
    (expected,) = torch.autograd.grad(chunked(hidden, weight, targets, reduction).sum(), hidden)
    asked = []
    monkeypatch.setattr(ChunkedCrossEntropy, "gradients", lambda *a, f=ChunkedCrossEntropy.gradients: asked.append(f(*a)) or asked[-1])
    (got,) = torch.autograd.grad(chunked(hidden, weight.detach(), targets, reduction).sum(), hidden)
    assert torch.equal(got, expected) and asked[0][2] is None


def test_a_second_derivative_is_refused():
    hidden, weight, targets = draw(5, 4, 7)
    (gradient,) = torch.autograd.grad(chunked(hidden, weight, targets).square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class LargestTensor(TorchDispatchMode):
    """Notes the most elements and the most bytes that any operation returned in one tensor."""

    elements = bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.element_size())
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_all_logits_are_never_held_at_once(reduction):
    N, V = 4096, 8192
    hidden, weight, targets = draw(N, 4, V)
    with LargestTensor() as whole:
        run(plain_cross_entropy, hidden, weight, targets, reduction)
    assert whole.elements >= N * V  # the measurement sees what it is there to see
    with LargestTensor() as largest:
        run(chunked, hidden, weight, targets, reduction)
    assert largest.elements <= N * V // 4
    assert largest.bytes <= 2 * CHUNK_BYTES["cpu"]  # a chunk in fp32 is at most twice one in the compute dtype


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_is_eager(reduction):
    inputs = draw(200, 8, 300, 0.2)
    same(run(ChunkedCrossEntropy(compiled=True), *inputs, reduction), run(chunked, *inputs, reduction))
