"""Trains one setting of the recall bench and measures it on fresh rows; the last line is JSON. `bench.mc_recall` starts it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench import recall_rows
from bench.recall_rows import Rows, Task, make_rows
from mc.config import MCConfig
from mc.controller import MCController
from mc.evaluation import Probe, choose_levels, make_probe, plain_forward, read_layouts, row_tree
from mc.layout_choice import by_score, coarsest
from nanochat.checkpoint import CheckpointStore
from nanochat.cross_entropy import IGNORE
from nanochat.flags import flag, parse, part, run
from nanochat.gpt import GPT, GPTConfig
from nanochat.metrics import JsonlSink, MetricsLogger
from nanochat.objective import StepResult
from nanochat.optim import MuonAdamW, OptimFlags
from nanochat.rows import Loader
from nanochat.runtime import RuntimeFlags, StopSignals, start
from nanochat.schedule import Plan, ScheduleFlags
from nanochat.trainer import Event, Trainer, TrainerFlags

TASKS = {"easy": recall_rows.EASY, "hard": recall_rows.HARD, "focus": recall_rows.FOCUS}
MEASURED = 512  # fresh rows
AT_ONCE = 64  # of them
FRESH, SHOWN = 1, 2  # streams of rows beside that of training, 0: to measure at the end, to look at on the way


@dataclass
class RecallWorker:
    """Train one setting of the recall bench and measure it."""

    task: Literal["easy", "hard", "focus"] = flag("easy", "which rows")
    steps: int = flag(600, "training steps", unit="steps")
    batch: int = flag(32, "rows in a step", unit="rows")
    lr: float = flag(0.7, "multiplies the nominal rates", unit="×")
    head_dim: int = flag(32, "size of the model's attention heads", unit="channels")
    seed: int = flag(0, "of weights, rows and layouts")
    learn_recall: float = flag(0.4, "task focus: share of the steps, at the beginning, that train on rows where every key is asked for")
    anneal: float = flag(0.5, "share of the steps after which variants are as narrow as they get", unit="of the run")
    show_every: int = flag(50, "steps between looks at the accuracy; -1 = none", unit="steps")
    mc: MCConfig = part(MCConfig)


class RecallRows(Loader):
    """What the trainer reads rows from; rows with another aim come first where the task is focus."""

    def __init__(self, config: RecallWorker) -> None:
        self.config, self.task, self.seq_len = config, TASKS[config.task], TASKS[config.task].length

    def rows(self, a: int, b: int) -> np.ndarray:
        """int32 [b-a, T+1], a function of a and b."""
        early = self.task.named and a < self.config.learn_recall * self.config.steps * self.config.batch
        return make_rows(recall_rows.HARD if early else self.task, b - a, (self.config.seed, 0, a)).tokens.astype(np.int32)

    def epoch_of(self, row: int) -> int:
        """No row comes twice."""
        return 0


class RecallController(MCController):
    """Asks for the values of the keys in the tail and for nothing else."""

    def __init__(self, model: GPT, config: RecallWorker) -> None:
        task = TASKS[config.task]
        super().__init__(model, config.mc, task.length, config.seed)
        self.task, self.anneal = task, config.anneal

    def forward(self, tokens: Tensor, targets: Tensor, progress: float, weights: Tensor | None = None) -> StepResult:
        """See `Objective.forward`."""
        task = self.task
        place = torch.arange(task.length, device=tokens.device)
        value = (targets >= task.keys) & (targets < task.keys + task.values)
        asked = (tokens < task.keys) & value & (place >= task.length - task.tail)
        return super().forward(tokens, targets.where(asked, IGNORE), min(1.0, progress / self.anneal))


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and measures; returns the exit code."""
    config = parse(RecallWorker, argv)
    begin = time.perf_counter()
    torch.set_num_threads(1)
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    task = TASKS[config.task]
    size = {"depth": 3, "aspect_ratio": 42, "head_dim": config.head_dim, "max_seq_len": task.length, "vocab_size": task.vocab_size}
    shape = GPTConfig(**size, window_pattern="L")
    model = GPT(shape, runtime.precision.dtype, runtime.backend).init_weights(torch.Generator().manual_seed(config.seed))
    model.use_kernels(compiled=False, chunked_ce=True)
    controller = RecallController(model, config).init_weights(torch.Generator().manual_seed(config.seed + 1))
    plan = Plan(config.batch * task.length, config.steps, config.lr, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            objective=controller,
            optimizer=MuonAdamW(controller.parameter_groups(OptimFlags(), plan), runtime.muon_dtype),
            plan=plan,
            schedule=ScheduleFlags(),
            flags=TrainerFlags(device_batch_size=config.batch, log_every=50, resume="never"),
            grad_clip=0.0,
            loader=RecallRows(config),
            runtime=runtime,
            store=CheckpointStore(Path(folder) / "checkpoints"),
            run_folder=Path(folder),
            identity={},
            meta={},
            open_metrics=lambda _: MetricsLogger([JsonlSink(Path(folder) / "metrics.jsonl")]),
            stop=StopSignals(),
        )

        def show(_) -> dict:
            measured = measure(controller, task, make_rows(task, 64, (config.seed, SHOWN)))
            minutes = (time.perf_counter() - begin) / 60
            figures = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
            print(f"step {trainer.state.step}, {minutes:.1f} min, loss {trainer.state.loss.value:.3f}: {figures}", flush=True)
            return {}

        trainer.events = [Event(trainer.cadence(config.show_every), show)] if config.show_every > 0 else []
        trainer.run()
    measured = measure(controller, task, make_rows(task, MEASURED, (config.seed, FRESH)))
    setting = {"task": config.task, **dataclasses.asdict(config.mc.gist), "steps": config.steps}
    print(json.dumps(setting | measured | {"minutes": (time.perf_counter() - begin) / 60}))
    return 0


@torch.no_grad()
def measure(controller: MCController, task: Task, rows: Rows) -> dict[str, float]:
    """Accuracies on `rows` by what the model sees: everything, every far block a gist, and for focus a quarter of them raw."""
    parts = (rows.tokens, rows.asked, rows.where)
    chunks = [_measure(controller, task, Rows(*(part[i : i + AT_ONCE] for part in parts))) for i in range(0, len(rows.tokens), AT_ONCE)]
    return {name: sum(chunk[name] for chunk in chunks) / len(chunks) for name in chunks[0]}


def _measure(controller: MCController, task: Task, rows: Rows) -> dict[str, float]:
    tokens, asked = torch.from_numpy(rows.tokens[:, :-1]), torch.tensor(rows.asked)
    values = torch.from_numpy(rows.targets).gather(1, asked)
    plain = plain_forward(controller.model, tokens)
    probe, blocks = _quarter(controller, task), torch.from_numpy(rows.where) // task.block_size
    tree = row_tree(controller, probe, plain)

    def accuracy(hidden: Tensor) -> float:
        at = asked - task.length + hidden.shape[1]
        hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
        return (controller.model.logits(hidden).argmax(-1) == values).float().mean().item()

    def behind(levels: Tensor, width: int) -> float:
        return accuracy(read_layouts(controller, probe, tree, levels[None], width))

    generator = torch.Generator().manual_seed(zlib.crc32(rows.tokens.tobytes()))
    layouts = {kind: choose_levels(controller, probe, plain, tree, kind, generator) for kind in ("random", "collapsed")}
    found = {"full_accuracy": accuracy(plain.hidden), "gist_accuracy": behind(layouts["collapsed"], coarsest(probe.compression).width)}
    if not task.named:
        return found
    # A pair that stands across two blocks needs both.
    across = (torch.from_numpy(rows.where) + 1).div(task.block_size, rounding_mode="floor").clamp(max=task.blocks - 1)
    needed = torch.zeros(len(tokens), task.blocks).scatter_(1, across, 1.0).scatter_(1, blocks, 2.0)
    layouts |= {"focus": choose_levels(controller, probe, plain, tree, "lens", generator), "oracle": by_score(probe.compression, needed)}
    found |= {f"{kind}_accuracy": behind(layouts[kind], probe.compression.width) for kind in ("focus", "random", "oracle")}
    found["lens_hit_rate"] = (layouts["focus"].gather(1, blocks) == 0).float().mean().item()
    return found


def _quarter(controller: MCController, task: Task) -> Probe:
    """The budget at which a quarter of the far blocks, rounded down, stays raw."""
    plan, K = controller.plan, task.block_size
    raw = task.blocks // 4
    before = task.length - plan.horizon - task.blocks * K
    width = before + raw * K + (task.blocks - raw) * controller.config.geometry.slots
    return make_probe(controller, plan.horizon, width, plan.recent)


if __name__ == "__main__":
    run(main)
