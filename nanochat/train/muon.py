"""Muon for stacks of matrices of one shape: orthogonalised momentum, with refinements.

Shapes: a stack is [N, m, n]. Sources: Muon (kellerjordan.github.io/posts/muon), Polar Express (arXiv 2505.16932),
NorMuon (arXiv 2510.05491), row equilibration (arXiv 2603.28254), renormalisation (arXiv 2602.21545),
cautious weight decay (arXiv 2510.12402).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Number = float | Tensor
# Five steps of Polar Express, computed for singular values in [1e-3, 1] with a safety factor of 1.02.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass(frozen=True)
class MuonExtras:
    """Refinements of plain Muon; with all of them off, the update is `torch.optim.Muon`'s."""

    coefficients: tuple[tuple[float, float, float], ...] = POLAR_EXPRESS
    norm_margin: float = 1.01  # divides the Frobenius norm further, so that no singular value starts above 1
    equilibrate: bool = True  # rows are scaled to their root mean square norm before the iteration
    renormalize: bool = True  # the result is scaled to the norm of an orthogonal matrix, √min(m, n)
    variance_beta: float | None = 0.9  # NorMuon: of the running mean squares along the longer side
    cautious: bool = True  # decay only the weights whose decay agrees in sign with the update


def second_moment_shape(shape: torch.Size) -> tuple[int, ...]:
    """Shape of NorMuon's buffer for a stack of `shape`: one value per row of a tall matrix, per column of a wide one.

    Along its shorter side an orthogonalised matrix is already even.
    """
    N, m, n = shape
    return (N, m, 1) if m >= n else (N, 1, n)


def orthogonalize(x: Tensor, extras: MuonExtras, dtype: torch.dtype) -> Tensor:
    """The (semi-)orthogonal matrix nearest to each in the stack x [N,m,n], iterated in `dtype` and returned in fp32."""
    if extras.equilibrate:
        rows = x.norm(dim=-1, keepdim=True)
        mean = rows.square().mean(dim=-2, keepdim=True).sqrt()
        x = x * (mean / torch.maximum(rows, 1e-6 * mean).clamp(min=1e-30))  # bounds the gain, whatever the gradient's scale
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) * extras.norm_margin).clamp(min=1e-7)).to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in extras.coefficients:  # the Gram matrix is taken on the shorter side
        gram = x.mT @ x if tall else x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, poly, beta=a) if tall else torch.baddbmm(x, poly, x, beta=a)
    x = x.float()
    if extras.renormalize:
        x = x * (min(x.shape[-2:]) ** 0.5 / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-6))
    return x


def reduce_variance(x: Tensor, second_moment: Tensor, beta: float | Tensor) -> Tensor:
    """NorMuon: normalises the scale of rows (or columns) by a running second moment, keeping each matrix's norm."""
    dim = -1 if second_moment.shape[-1] == 1 else -2
    squares = x.square().mean(dim=dim, keepdim=True)
    second_moment.lerp_(squares, 1 - beta)
    scale = second_moment.clamp(min=1e-10).rsqrt()
    before = squares.sum(dim=(-2, -1), keepdim=True)
    after = (squares * scale.square()).sum(dim=(-2, -1), keepdim=True)
    return x * scale * (before / after.clamp(min=1e-20)).sqrt()


def muon_update(
    params: Tensor, grads: Tensor, momentum: Tensor, second_moment: Tensor | None, keep: Tensor,
    *, lr: Number, mu: Number, weight_decay: Number, decay_lr: Number, dtype: torch.dtype, extras: MuonExtras,
) -> Tensor:  # fmt: skip
    """One step on a stack: updates `momentum` and `second_moment` in place, returns the new parameters [N,m,n] fp32.

    `keep` is a fp32 scalar tensor: 1, or 0 for a step whose loss was not finite, which then changes nothing. `lr` is the
    learning rate of the update, `mu` the momentum, `decay_lr` the learning rate that multiplies the weight decay; a compiled
    function needs them as tensors (fp32 scalars on the CPU).
    """
    update = muon_direction(grads, momentum, second_moment, keep, mu=mu, dtype=dtype, extras=extras)
    return muon_apply(params, update, keep, lr=lr, weight_decay=weight_decay, decay_lr=decay_lr, extras=extras)


def muon_direction(
    grads: Tensor, momentum: Tensor, second_moment: Tensor | None, keep: Tensor, *, mu: Number, dtype: torch.dtype, extras: MuonExtras
) -> Tensor:
    """First half of `muon_update`, which needs whole matrices: the update [N,m,n] fp32 at a learning rate of 1."""
    grads = torch.where(keep > 0, grads, 0.0)
    momentum.lerp_(grads, (1 - mu) * keep)
    update = orthogonalize(grads.lerp(momentum, mu), extras, dtype)
    return update if second_moment is None else reduce_variance(update, second_moment, 1 - (1 - extras.variance_beta) * keep)


def muon_apply(
    params: Tensor, update: Tensor, keep: Tensor, *, lr: Number, weight_decay: Number, decay_lr: Number, extras: MuonExtras
) -> Tensor:
    """Second half of `muon_update`, elementwise: the new parameters."""
    decay = params * ((update * params) >= 0) if extras.cautious else params
    return params - keep * (lr * update + decay_lr * weight_decay * decay)
