"""Overhead of the memory in a training step.

    python -m bench.mc_overhead            # the CPU demo's shapes and the memory's defaults
    python -m bench.mc_overhead --mc-joint=mean --gistnet-type=transformer      # every variant in the core loss, whole

The step without a memory and the step with one run in turn in one process, on the same model; `step_vs_plain` is the median of their
ratios. The *controller* is all of a step except the passes of the model, GistNet and LensNet: its forward is timed by spans, its
backward (of gathering the entries of layer-0 gists) separately. If variants are read whole and teach the model, *predicted* is the
forward and backward of the step without a memory times the tokens and entries forwarded per token of a row, plus one optimizer step.
Each figure is measured at the first, middle and last stage of the annealing; the last line is JSON with the worst.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from mc.auto_batch import choose_micro_batch
from mc.config import MCConfig
from mc.nets.gist_bank import GistBank, assemble
from mc.train.controller import NETWORKS, SPANS, MCController
from mc.train.variant_sampler import Request
from nanochat.flags import flag, parse, part, run
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.profiling.timers import SpanTimers, untimed
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.train.objective import NextTokenObjective, Objective
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan

STAGES = (0.0, 0.5, 0.999)  # progress of the run
CONTROLLER = tuple(span for spans in SPANS.values() for span in spans if span not in NETWORKS)


@dataclass
class MCOverhead:
    """Measure the overhead of the memory in a training step; the last line is JSON."""

    depth: int = flag(4, "number of layers", unit="layers")
    head_dim: int = flag(64, "size of an attention head", unit="channels")
    max_seq_len: int = flag(512, "length of a row", unit="tokens")
    vocab_size: int = flag(8192, "vocabulary size")
    device_batch_size: int = flag(8, "micro-batch size without a memory", unit="rows")
    total_batch_size: int = flag(8192, "tokens per step", unit="tokens")
    rounds: int = flag(5, "measurements of each step, in turn", unit="rounds")
    runtime: RuntimeFlags = part(RuntimeFlags)
    mc: MCConfig = part(MCConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    config = parse(MCOverhead, argv)
    runtime = start(config.runtime)
    print(runtime.describe())
    rows = torch.randint(config.vocab_size, (config.total_batch_size // config.max_seq_len, config.max_seq_len + 1), device=runtime.device)
    steps = build(config, runtime)
    stages = [measure_stage(config, runtime, steps, rows, progress) for progress in STAGES]
    worst = {name: max(stage.figures[name] for stage in stages) for name in stages[0].figures}
    if "step_vs_predicted" in worst:
        worst["all_stages_vs_predicted"] = sum(stage.step_ms for stage in stages) / sum(stage.predicted_ms for stage in stages)
    print(json.dumps({name: round_to(value) for name, value in worst.items()}))
    return 0


@dataclass
class Steps:
    """The step without a memory and the one with it, on the same model, and the rows of their micro-batches."""

    vanilla: NextTokenObjective
    memory: MCController
    sizes: tuple[int, int]
    optimizers: tuple[MuonAdamW, MuonAdamW]
    spans: SpanTimers  # of the memory's


def build(config: MCOverhead, runtime: Runtime) -> Steps:
    """Model, memory and optimizers."""
    T = config.max_seq_len
    shape = GPTConfig(config.depth, 64, config.head_dim, 0, T, runtime.window_pattern("auto"), config.vocab_size)
    model = GPT(shape, runtime.precision.dtype, runtime.backend).init_weights(torch.Generator().manual_seed(0))
    model.to(runtime.device).use_kernels(runtime.compile, chunked_ce=True)
    vanilla = NextTokenObjective(model)
    memory = MCController(model, config.mc, T).init_weights(torch.Generator().manual_seed(1)).to(runtime.device)
    memory.use_kernels(runtime.compile)
    memory.spans = spans = SpanTimers(runtime.device)
    micro = choose_micro_batch(memory, config.device_batch_size, config.total_batch_size, runtime, print)
    plan = TrainPlan(config.total_batch_size, 1000, 0.1, 0.1)
    first, second = (MuonAdamW(o.parameter_groups(OptimFlags(), plan), runtime.muon_dtype) for o in (vanilla, memory))
    return Steps(vanilla, memory, (config.device_batch_size, micro), (first, second), spans)


@dataclass
class Stage:
    """Figures of one width of variants; `predicted_ms` is that of variants that are read whole and teach the model."""

    step_ms: float
    predicted_ms: float
    figures: dict[str, float]


def measure_stage(config: MCOverhead, runtime: Runtime, steps: Steps, rows: torch.Tensor, progress: float) -> Stage:
    """Runs both steps in turn when `progress` of the run is done, and prints what they take."""
    memory, micro = steps.memory, steps.sizes[1]
    times: list[list[float]] = [[], []]
    updates: list[float] = []
    for round in range(config.rounds + 1):
        for objective, size, optimizer, collected in zip((steps.vanilla, memory), steps.sizes, steps.optimizers, times, strict=True):
            passes = timed(runtime, partial(step, objective, rows, size, progress))
            update = timed(runtime, partial(update_once, optimizer))
            if round:  # the first compiles
                collected.append(passes + update)
                updates += [update] if objective is steps.vanilla else []
        if not round:
            steps.spans.collect()
    by_span = {name: ms / config.rounds for name, ms in steps.spans.collect().items()}
    step_ms, vanilla_ms, update_ms = (1e3 * statistics.median(t) for t in (times[1], times[0], updates))
    variant = memory.plan.compression(memory.plan.width(progress))
    variants = min(config.mc.mc_num_random_variants, variant.possibilities)
    predicted = (vanilla_ms - update_ms) * (1 + variants * variant.width / config.max_seq_len) + update_ms
    whole = config.mc.joint_mean and not memory.layered
    micro_batches = len(rows) / micro
    backward_ms = 0.0 if memory.layered else 1e3 * micro_batches * gather_backward(runtime, memory, micro, progress, config.rounds)
    controller_ms = sum(by_span.get(name, 0.0) for name in CONTROLLER) + backward_ms
    figures = {
        "controller_share": controller_ms / step_ms,
        "variant_pack_ms": by_span.get("variant_pack", 0.0),
        "step_vs_plain": statistics.median(mine / plain for plain, mine in zip(*times, strict=True)),
        **({"step_vs_predicted": step_ms / predicted} if whole else {}),
        "timers_share": 1e3 * timers(runtime, memory, rows[:micro], progress) * micro_batches / step_ms,
    }
    print(f"{variants} variants of {variant.width} entries, micro-batches of {micro} rows: vanilla {vanilla_ms:.0f} ms, ", end="")
    foretold = f"predicted {predicted:.0f} ms, " if whole else ""
    print(f"step {step_ms:.0f} ms, {foretold}controller {controller_ms:.1f} ms (backward {backward_ms:.1f}), ", end="")
    print(", ".join(f"{name} {ms:.1f}" for name, ms in by_span.items() if name in (*CONTROLLER, *NETWORKS)))
    return Stage(step_ms, predicted, figures)


def step(objective: Objective, rows: torch.Tensor, size: int, progress: float) -> None:
    """Runs forward and backward of a step's rows."""
    for micro in rows.split(size):
        (objective(micro[:, :-1], micro[:, 1:], progress).total * size / len(rows)).backward()


def update_once(optimizer: MuonAdamW) -> None:
    """Runs one optimizer step."""
    optimizer.reduce_gradients()
    optimizer.step()


def gather_backward(runtime: Runtime, memory: MCController, rows: int, progress: float, rounds: int) -> float:
    """Seconds of the backward of gathering a micro-batch's entries."""
    request = Request(0, memory.config.mc_num_random_variants, rows, memory.plan.width(progress))
    index = memory.sampler.sample(request).index.to(runtime.device)
    shape, config = memory.plan.shape, memory.model.config
    M = sum(nodes * shape.geometry.size(level) for level, nodes in enumerate(shape.levels))
    bank = torch.randn(rows, M, config.width, device=runtime.device, dtype=memory.model.dtype, requires_grad=True)
    values = torch.randn(
        rows, M, len(memory.model.value_layers), config.key_heads, config.head_dim, device=runtime.device, dtype=bank.dtype
    )
    values.requires_grad_()

    def once() -> float:
        entries = assemble(GistBank(bank, values, shape), index)
        grads = [torch.ones_like(entries.x), torch.ones_like(entries.values)]
        return timed(runtime, lambda: torch.autograd.grad([entries.x, entries.values], [bank, values], grads))

    return statistics.median([once() for _ in range(rounds + 1)][1:])


def timers(runtime: Runtime, memory: MCController, rows: torch.Tensor, progress: float) -> float:
    """Seconds of overhead of the spans that a micro-batch opens."""
    real, opened = memory.spans, []
    memory.spans = lambda name: (opened.append(name), untimed(name))[1]
    memory(rows[:, :-1], rows[:, 1:], progress)
    memory.spans = real
    spans, times = SpanTimers(runtime.device), 200

    def once() -> None:
        for _ in range(times):
            for name in opened:
                with spans(name):
                    pass
        spans.collect()

    return timed(runtime, once) / times


def timed(runtime: Runtime, what: Callable[[], object]) -> float:
    """Seconds that `what` takes on the device."""
    wait = torch.cuda.synchronize if runtime.device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    what()
    wait()
    return time.perf_counter() - begin


def round_to(value: float) -> float:
    """Rounds to four digits, more than a shared machine reproduces."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    run(main)
