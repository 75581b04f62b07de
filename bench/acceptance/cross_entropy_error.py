"""Part `cross_entropy`: value and gradients of the chunked loss against the whole one in fp32."""

from __future__ import annotations

import torch

from bench.acceptance.attention_error import relative_error
from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.model.cross_entropy import CHUNK_BYTES, IGNORE, ChunkedCrossEntropy, plain_cross_entropy

TARGETS, WIDTH = 10_000, 768  # the last of three chunks is not a whole one
TOY_TARGETS, TOY_WIDTH = 30_000, 24
BOUND = {torch.bfloat16: 0.01, torch.float32: 1e-4}  # relative error of the gradients; on a CPU in bf16 they are off by 0.003


def run(lab: Lab, record: Record) -> None:
    """Compares both losses as training uses them: compiled on a GPU."""
    device, dtype = torch.device(lab.device_type), torch.float32 if lab.toy else torch.bfloat16
    N, D = (TOY_TARGETS, TOY_WIDTH) if lab.toy else (TARGETS, WIDTH)
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(N, D, device=device, dtype=dtype, generator=generator)
    weight = torch.randn(lab.vocab_size, D, device=device, generator=generator).mul_(D**-0.5).to(dtype)
    targets = torch.randint(lab.vocab_size, (N,), device=device, generator=generator)
    targets[::7] = IGNORE
    record.at_least("chunks", N * lab.vocab_size * dtype.itemsize / CHUNK_BYTES[device.type], 1.01, "else nothing is compared")
    results = []
    for loss_of, kind in ((plain_cross_entropy, torch.float32), (ChunkedCrossEntropy(compiled=not lab.toy), dtype)):
        inputs = [part.to(kind).detach().requires_grad_() for part in (hidden, weight)]
        loss = loss_of(*inputs, targets)
        results.append((loss.item(), *torch.autograd.grad(loss, inputs)))
    (expected, *gradients), (got, *own) = results
    record.at_most("loss", abs(got / expected - 1), BOUND[dtype] / 10, "relative error")
    for name, mine, exact in zip(("hidden", "weight"), own, gradients, strict=True):
        record.at_most(f"gradient of {name}", relative_error(mine, exact), BOUND[dtype], "relative error")
    if not lab.toy:
        for name, loss_of in (("whole", plain_cross_entropy), ("chunked", ChunkedCrossEntropy(compiled=True))):
            record.report(f"peak memory, {name}", peak_mib(loss_of, hidden, weight, targets), "MiB")


def peak_mib(loss_of, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> float:
    """Device memory that a forward and a backward allocate at most."""
    inputs = [part.detach().requires_grad_() for part in (hidden, weight)]
    loss_of(*inputs, targets).backward()  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss_of(*inputs, targets).backward()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
