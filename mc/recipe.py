"""What a training script adds for a memory: the controller, its micro-batch, and what is measured beside training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mc.auto_batch import estimate_mc_device_batch, probe_micro_batch
from mc.config import MCConfig
from mc.eval.metric_bounds import expected, memory_targets
from mc.eval.row_eval import KINDS, choose_levels, evaluate_memory, plain_forward, row_tree, training_probes
from mc.layout.draw import draw_layouts
from mc.train.controller import MCController
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Runtime
from nanochat.tracking.run_log import MC_SUFFIX
from nanochat.train.objective import Objective


def wandb_name(run: str, memory: bool) -> str | None:
    """Name of the W&B run that `--run` asks for; None where it asks for none."""
    return None if run == "dummy" else run + MC_SUFFIX * (memory and not run.endswith(MC_SUFFIX))


def new_controller(model: GPT, config: MCConfig, seq_len: int, seed: int, runtime: Runtime) -> MCController:
    """`model`, whose weights stay as they are, with a fresh memory on its device.

    The memory's weights are the same in all processes, the layouts are each process's own.
    """
    controller = MCController(model, config, seq_len, seed, rank=runtime.rank)
    # Other numbers than those that the model's weights were drawn from.
    return controller.init_weights(torch.Generator().manual_seed(seed + 1)).to(runtime.device).use_kernels(runtime.compile)


def choose_micro_batch(
    controller: MCController, baseline_rows: int, total_batch_size: int, runtime: Runtime, say: Callable[[str], None]
) -> int:
    """Rows of a micro-batch, where one of the baseline has `baseline_rows`: always a divisor of a step's rows in a process.

    On a CPU they are the baseline's: memory is plenty there, and small micro-batches cost time. Elsewhere what fits decides.
    A step stays `total_batch_size` tokens. Raises `UserError` where a GPU does not hold a single row.
    """
    config, T = controller.config, controller.plan.length
    budget = total_batch_size // (T * runtime.world_size)
    rows = baseline_rows
    if config.mc_auto_batch and runtime.device.type != "cpu":
        rows, _ = estimate_mc_device_batch(baseline_rows, budget, controller.plan)
        if runtime.device.type == "cuda":
            rows = probe_micro_batch(controller, budget, rows, T)
    assert budget * runtime.world_size * T == total_batch_size and budget % rows == 0, "tokens per step are not the baseline's"
    controller.micro_batches = budget // rows * runtime.world_size
    say(f"memory: {budget // rows} micro-batches of {rows} rows in a step; {budget // baseline_rows} of {baseline_rows} without a memory")
    if config.session.mc_tree == "disk":
        say("memory: training rows live in RAM whatever --mc-tree says; disk is for sessions")
    return rows


def watched(objective: Objective, rows: int) -> dict[str, Any]:
    """What `nanochat.tracking.run_log.open_metrics` is told of a memory: its targets, and what they take from settings, in steps of `rows`."""
    if not isinstance(objective, MCController):
        return {}
    least = expected(objective.plan, rows)
    return {"targets": memory_targets(least), "least": least}


def measure_memory(
    controller: MCController, batches: Iterable[tuple[Tensor, Tensor]], should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    """The figures of `evaluate_memory` but for those that are not defined; None where it was stopped."""
    figures = evaluate_memory(controller, batches, should_stop)
    return None if figures is None else {name: value for name, value in figures.items() if value == value}


@torch.no_grad()
def picture(controller: MCController, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """The layouts that each way to choose gives the first row of `batches` at the widest horizon measured, as lines of text."""
    probes = training_probes(controller)
    if not probes:
        return "rows are too short for the horizons that layouts are chosen for"
    probe, (tokens, _) = probes[-1], next(iter(batches))
    plain = plain_forward(controller.model, tokens[:1].to(controller.model.wte.weight.device))
    tree, generator = row_tree(controller, probe, plain), torch.Generator().manual_seed(0)
    kinds = [kind for kind in KINDS if kind != "collapsed"]
    levels = torch.cat([choose_levels(controller, probe, plain, tree, kind, generator) for kind in kinds])
    return draw_layouts(levels.cpu(), probe.plan, kinds)
