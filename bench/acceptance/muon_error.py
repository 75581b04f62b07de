"""Part `muon`: the optimizer's steps, compiled against eager, both against eager steps whose iteration is in fp32."""

from __future__ import annotations

import time

import torch
import torch.nn as nn

from bench.acceptance import compiler
from bench.acceptance.attention_error import relative_error
from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.train.optim import MuonAdamW, ParamGroup

SHAPES = ((768, 768), (3072, 768), (768, 3072))  # of d12's layers
TOY_SHAPES = ((24, 16),)
STACK, STEPS = 4, 4
LEARNING_RATE = 0.02
TIMED = 10  # steps
ROUNDED = 0.05  # error of eager steps; on a CPU in bf16 it is 0.01
WORSE = 1.5  # error of compiled steps, relative to that of eager ones: fusing rounds elsewhere


def run(lab: Lab, record: Record) -> None:
    """Takes the same steps three times; learning rate and momentum change with each."""
    dtype = torch.float32 if lab.toy else torch.bfloat16
    exact, _ = steps(lab, torch.float32, compiled=False)
    eager, eager_ms = steps(lab, dtype, compiled=False)
    compilations = compiler.Compilations()
    with compiler.backend(compiler.TOY if lab.toy else compiler.REAL):
        compiled, compiled_ms = steps(lab, dtype, compiled=True)
    errors = [max(relative_error(mine, other) for mine, other in zip(updates, exact, strict=True)) for updates in (eager, compiled)]
    record.at_most("eager", errors[0], ROUNDED, "relative error of the updates, the largest")
    record.at_most("compiled", errors[1], max(WORSE * errors[0], 1e-4), "relative error of the updates, the largest")
    record.equal("graphs", compilations.graphs(), len(TOY_SHAPES if lab.toy else SHAPES), "one for each shape, whatever the step")
    record.report("compilation", compilations.seconds(), "s")
    record.report("step, eager", eager_ms, f"ms, {STACK} matrices of each shape")
    record.report("step, compiled", compiled_ms, "ms")


def steps(lab: Lab, dtype: torch.dtype, compiled: bool) -> tuple[list[torch.Tensor], float]:
    """What `STEPS` steps with random gradients change in each stack; and the milliseconds of later steps."""
    device = torch.device(lab.device_type)
    generator = torch.Generator(device).manual_seed(0)
    shapes = TOY_SHAPES if lab.toy else SHAPES
    named = [
        (f"{shape}.{i}", nn.Parameter(torch.randn(shape, device=device, generator=generator).mul_(0.02)))
        for shape in shapes
        for i in range(STACK)
    ]
    before = [p.detach().clone() for _, p in named]
    optimizer = MuonAdamW([ParamGroup("muon", named, LEARNING_RATE, weight_decay=0.1)], dtype, compiled)

    def step(number: int) -> None:
        for _, p in named:
            p.grad = torch.randn(p.shape, device=device, generator=generator)
        optimizer.reduce_gradients()
        optimizer.step(lr=1 / (1 + number), momentum=0.85 + 0.01 * number, keep=torch.ones((), device=device))

    for number in range(STEPS):
        step(number)
    updates = [
        torch.stack([p.detach() - old for (_, p), old in zip(named, before, strict=True)][i : i + STACK])
        for i in range(0, len(named), STACK)
    ]
    wait(device)
    begin = time.perf_counter()
    for number in range(TIMED):
        step(number)
    wait(device)
    return updates, (time.perf_counter() - begin) / TIMED * 1e3


def wait(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
