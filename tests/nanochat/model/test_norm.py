import pytest
import torch

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.model.norm import fused_norm, norm


def gradient(function, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    y.backward(grad)
    return y.detach(), x.grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_fused_norm_and_its_gradient_are_those_of_the_plain_one(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = (scale * torch.randn(3, 5, 48, generator=g)).to(dtype)
    grad = torch.randn(3, 5, 48, generator=g).to(dtype)
    for ours, plain in zip(gradient(fused_norm, x, grad), gradient(norm, x, grad), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance * plain.abs().max().item())


def test_the_gradient_is_that_of_the_formula() -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = x.clone().requires_grad_()
    (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True))).sin().sum().backward()
    ours = x.float().requires_grad_()
    fused_norm(ours).sin().sum().backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_a_row_of_zeros_stays_zero_and_its_gradient_is_finite() -> None:
    y, grad = gradient(fused_norm, torch.zeros(2, 8), torch.ones(2, 8))
    assert torch.equal(y, torch.zeros(2, 8)) and grad.isfinite().all()


def test_it_keeps_one_number_for_each_row() -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fused_norm(torch.randn(4, 7, 32, requires_grad=True))
    assert sorted(t.numel() for t in kept) == [28, 4 * 7 * 32]


def test_a_model_trains_alike_with_either() -> None:
    config = GPTConfig(depth=2, aspect_ratio=16, head_dim=16, max_seq_len=16, vocab_size=50, window_pattern="L")
    tokens = torch.randint(50, (2, 17), generator=torch.Generator().manual_seed(2))
    losses, gradients = [], []
    for fused in (False, True):
        g = torch.Generator().manual_seed(3)
        model = GPT(config).init_weights(g).use_kernels(compiled=False, chunked_ce=True, fused_rmsnorm=fused)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=g))
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        names = {type(node).__name__ for node in _nodes(loss.grad_fn)}
        assert ("_FusedNormBackward" in names) == fused
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def _nodes(node) -> set:
    seen, todo = set(), [node]
    while todo:
        current = todo.pop()
        if current is not None and current not in seen:
            seen.add(current)
            todo += [following for following, _ in current.next_functions]
    return seen
