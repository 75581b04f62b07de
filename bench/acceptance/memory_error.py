"""Part `memory`: the estimate of device memory, by which base_train refuses a run, against the peak of training."""

from __future__ import annotations

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.flags import parse
from nanochat.profiling.device_memory import MIB
from scripts.memory_estimate import EstimateMemory, estimate

LENGTH, STEPS = 2048, 3
SHAPES = ((12, 32), (20, 16), (20, 32))  # layers, rows of a micro-batch
TOY_SHAPES = ((2, 4),)
# Estimate relative to the measured peak: less and a run dies instead of being refused, more and one is refused that would fit.
RATIO, TOY_RATIO = (0.9, 1.25), (0.3, 3.0)


def run(lab: Lab, record: Record) -> None:
    """Trains each shape for a few steps of two micro-batches."""
    for depth, rows in TOY_SHAPES if lab.toy else SHAPES:
        tag = f"memory-d{depth}-{rows}"
        home, argv = lab.home(tag), lab.flags(tag, full(depth, rows))
        foreseen = estimate(parse(EstimateMemory, [*home.argv, *argv, f"--vocab-size={lab.vocab_size}"])).at(rows)
        # On a GPU torch counts what it has allocated, without the driver's share.
        expected = (foreseen.total - (0 if lab.toy else foreseen.parts["process"])) / MIB
        lab.train(home, argv, STEPS)
        measured = max(each["train/peak_mem_mib"] for each in home.metrics())
        name = f"d{depth}, {rows} rows"
        record.report(f"{name}: measured", measured, "MiB")
        parts = ", ".join(f"{part} {size / MIB:,.0f}" for part, size in foreseen.parts.items())
        record.between(
            f"{name}: estimate / measured", expected / measured, *(TOY_RATIO if lab.toy else RATIO), f"MiB of {foreseen.moment}: {parts}"
        )


def full(depth: int, rows: int) -> tuple[str, ...]:
    """Flags of a shape on a GPU: two micro-batches a step, so that gradients are accumulated."""
    return f"--depth={depth}", f"--max-seq-len={LENGTH}", f"--device-batch-size={rows}", f"--total-batch-size={2 * rows * LENGTH}"
