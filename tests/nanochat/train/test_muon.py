import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.train.muon import POLAR_EXPRESS, MuonExtras, muon_update, orthogonalize, reduce_variance, second_moment_shape

NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5  # torch.optim.Muon's default
PLAIN = MuonExtras(NEWTON_SCHULZ, norm_margin=1.0, equilibrate=False, renormalize=False, variance_beta=None, cautious=False)
REFINED = MuonExtras()
ONE = torch.ones(())
SHAPES = [(3, 48, 16), (3, 16, 48), (2, 32, 32), (1, 1, 20)]  # tall, wide, square, a single row


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(p: Tensor, g: Tensor, m: Tensor, s: Tensor | None, keep: Tensor = ONE, extras: MuonExtras = REFINED, **changed) -> Tensor:
    options = {"lr": 0.1, "mu": 0.9, "weight_decay": 0.5, "decay_lr": 0.1, "dtype": torch.float32} | changed
    return muon_update(p, g, m, s, keep, extras=extras, **options)


@pytest.mark.parametrize("equilibrate", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_become_one(shape, equilibrate):
    y = orthogonalize(randn(*shape), MuonExtras(equilibrate=equilibrate, renormalize=False), torch.float32)
    values = torch.linalg.svdvals(y)
    assert values.min() > 0.8 and values.max() < 1.2  # Polar Express in five steps: 1 ± 0.141 from singular values ≥ 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_acts_on_singular_values_alone(shape):
    x = randn(*shape)
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / (1.01 * s.norm(dim=-1, keepdim=True))
    for a, b, c in POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    y = orthogonalize(x, MuonExtras(equilibrate=False, renormalize=False), torch.float32)
    torch.testing.assert_close(y, (u @ (s.unsqueeze(-1) * vh)).float(), rtol=1e-3, atol=1e-4)


def test_equilibration_evens_out_rows():
    x = randn(2, 6, 10)
    uneven = x * torch.tensor([1e-3, 1, 10, 1e3, 1, 0.1])[:, None]
    extras = MuonExtras(renormalize=False)
    torch.testing.assert_close(orthogonalize(uneven, extras, torch.float32), orthogonalize(x, extras, torch.float32), rtol=1e-3, atol=1e-4)
    x[0, 2] = 0  # a row without a gradient gets no update
    assert not orthogonalize(x, extras, torch.float32)[0, 2].any()


def test_bf16_is_as_good_as_bf16_is():
    x = randn(2, 64, 128)
    y = orthogonalize(x, MuonExtras(), torch.bfloat16)
    assert y.dtype == torch.float32
    assert (y - orthogonalize(x, MuonExtras(), torch.float32)).norm() / y.norm() < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.floats(1e-6, 1e6))
def test_the_scale_of_the_gradient_does_not_matter(N, m, n, scale):
    x = randn(N, m, n)
    y = orthogonalize(x, MuonExtras(), torch.float32)
    torch.testing.assert_close(orthogonalize(x * scale, MuonExtras(), torch.float32), y, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(y.norm(dim=(1, 2)), torch.full((N,), float(min(m, n)) ** 0.5))  # renormalised


def test_matrices_of_a_stack_do_not_touch_each_other():
    x = randn(4, 12, 20)
    alone = torch.cat([orthogonalize(x[i : i + 1], MuonExtras(), torch.float32) for i in range(4)])
    torch.testing.assert_close(orthogonalize(x, MuonExtras(), torch.float32), alone)


def test_a_transposed_matrix_gives_the_transposed_result():
    x, extras = randn(2, 12, 20), MuonExtras(equilibrate=False)
    y = orthogonalize(x, extras, torch.float32)
    torch.testing.assert_close(orthogonalize(x.mT.contiguous(), extras, torch.float32), y.mT, rtol=1e-3, atol=1e-4)


def test_nothing_stays_nothing():
    p, s = randn(2, 8, 4), torch.zeros(2, 8, 1)
    new = step(p, torch.zeros_like(p), torch.zeros_like(p), s, weight_decay=0.0)
    assert torch.equal(new, p)


@pytest.mark.parametrize("shape", SHAPES)
def test_variance_reduction_evens_out_and_keeps_norms(shape):
    x = randn(*shape) * torch.linspace(0.1, 3, shape[1])[:, None] * torch.linspace(0.1, 3, shape[2])
    second_moment = torch.zeros(second_moment_shape(torch.Size(shape)))
    assert second_moment.numel() == shape[0] * max(shape[1:])
    y = reduce_variance(x, second_moment, beta=0.9)
    torch.testing.assert_close(y.norm(dim=(1, 2)), x.norm(dim=(1, 2)))
    shorter = 2 if shape[1] >= shape[2] else 1
    sizes = y.square().mean(dim=shorter)
    torch.testing.assert_close(sizes, sizes.mean(dim=1, keepdim=True).expand_as(sizes))  # after one step: all alike
    torch.testing.assert_close(second_moment, 0.1 * x.square().mean(dim=shorter, keepdim=True))


def test_variance_remembers():
    second_moment, squares = torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)
    for i in range(4):
        x = randn(1, 3, 6, seed=i)
        reduce_variance(x, second_moment, beta=0.8)
        squares = 0.8 * squares + 0.2 * x.square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(second_moment, squares)


def test_weight_decay_acts_only_where_it_agrees_with_the_update():
    p, g = randn(1, 16, 16, seed=1), randn(1, 16, 16, seed=2)

    def change(weight_decay: float, cautious: bool) -> Tensor:
        return step(p, g, torch.zeros_like(p), None, extras=MuonExtras(cautious=cautious), weight_decay=weight_decay) - p

    update = change(0.0, True)
    agrees = (update * p) <= 0  # the update, too, makes the weight smaller
    assert 0.3 < agrees.float().mean() < 0.7
    torch.testing.assert_close(change(0.5, True) - update, torch.where(agrees, -0.1 * 0.5 * p, 0.0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(change(0.5, False) - update, -0.1 * 0.5 * p, rtol=1e-3, atol=1e-6)


def test_momentum_is_nesterov():
    p, momentum, mean = randn(1, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    for i in range(3):
        g = randn(1, 8, 8, seed=i)
        new = step(p, g, momentum, None, weight_decay=0.0, extras=PLAIN)
        mean = 0.9 * mean + 0.1 * g
        torch.testing.assert_close(momentum, mean)
        expected = orthogonalize(0.1 * g + 0.9 * mean, PLAIN, torch.float32)
        torch.testing.assert_close((p - new) / 0.1, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.0])
def test_a_step_that_is_not_kept_changes_no_bit(bad):
    p, momentum, second_moment = randn(2, 8, 12), randn(2, 8, 12, seed=1), randn(2, 1, 12, seed=2).square()
    before = [t.clone() for t in (p, momentum, second_moment)]
    g = randn(2, 8, 12, seed=3)
    g[0, 1, 2] = bad
    new = step(p, g, momentum, second_moment, keep=torch.zeros(()))
    for a, b in zip((new, momentum, second_moment), before, strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))
