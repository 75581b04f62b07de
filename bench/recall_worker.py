"""Worker of `bench.mc_recall`: trains one setting and measures it on fresh rows; the last line is JSON."""

from __future__ import annotations

import dataclasses
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench import recall_rows
from bench.recall_rows import Rows, Task, make_rows
from bench.recall_training import RecallController, RecallRows, new_model, train
from mc.config import MCConfig
from mc.eval.choose_layout import by_score, coarsest
from mc.eval.row_eval import Probe, choose_levels, make_probe, read_layouts
from mc.memory_model import MemoryModel
from nanochat.flags import flag, parse, part, run
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.trainer import Trainer

TASKS = {"easy": recall_rows.EASY, "hard": recall_rows.HARD, "focus": recall_rows.FOCUS}
MEASURED = 512  # fresh rows
AT_ONCE = 64  # of them
FRESH, SHOWN = 1, 2  # streams of rows for the final and the intermediate measurements; training has stream 0


@dataclass
class RecallWorker:
    """Train one setting of the recall bench and measure it."""

    task: Literal["easy", "hard", "focus"] = flag("easy", "task to train on")
    steps: int = flag(600, "training steps", unit="steps")
    batch: int = flag(32, "rows per step", unit="rows")
    lr: float = flag(0.7, "factor on the nominal learning rates", unit="×")
    head_dim: int = flag(32, "size of the model's attention heads", unit="channels")
    seed: int = flag(0, "seed of weights, rows and layouts")
    learn_recall: float = flag(0.4, "task focus: share of the steps, at the start, on rows that ask for every key")
    anneal: float = flag(0.5, "share of the steps after which variants are narrowest", unit="of the run")
    show_every: int = flag(50, "steps between measurements of the accuracy; -1 = none", unit="steps")
    mc: MCConfig = part(MCConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and measures; returns the exit code."""
    config = parse(RecallWorker, argv)
    begin = time.perf_counter()
    torch.set_num_threads(1)
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    task = TASKS[config.task]
    model = new_model(task, config.head_dim, config.seed, runtime)
    controller = RecallController(model, config.mc, task, config.seed, config.anneal).init_weights(
        torch.Generator().manual_seed(config.seed + 1)
    )
    # The focus task starts with rows of another kind.
    early = int(config.learn_recall * config.steps * config.batch) if task.named else 0
    loader = RecallRows(task, config.seed, recall_rows.HARD, early)

    def show(trainer: Trainer) -> None:
        measured = measure(controller, task, make_rows(task, 64, (config.seed, SHOWN)))
        minutes = (time.perf_counter() - begin) / 60
        figures = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
        print(f"step {trainer.state.step}, {minutes:.1f} min, loss {trainer.state.loss.value:.3f}: {figures}", flush=True)

    train(controller, loader, config.steps, config.batch, config.lr, runtime, show, config.show_every)
    measured = measure(controller, task, make_rows(task, MEASURED, (config.seed, FRESH)))
    setting = {"task": config.task, **dataclasses.asdict(config.mc.gist), "steps": config.steps}
    print(json.dumps(setting | measured | {"minutes": (time.perf_counter() - begin) / 60}))
    return 0


@torch.no_grad()
def measure(memory: MemoryModel, task: Task, rows: Rows) -> dict[str, float]:
    """Accuracies on `rows` with the full context, with every far block a gist, and for focus with a quarter of them raw."""
    parts = (rows.tokens, rows.asked, rows.where)
    chunks = [_measure(memory, task, Rows(*(part[i : i + AT_ONCE] for part in parts))) for i in range(0, len(rows.tokens), AT_ONCE)]
    return {name: sum(chunk[name] for chunk in chunks) / len(chunks) for name in chunks[0]}


def _measure(memory: MemoryModel, task: Task, rows: Rows) -> dict[str, float]:
    tokens, asked = torch.from_numpy(rows.tokens[:, :-1]), torch.tensor(rows.asked)
    values = torch.from_numpy(rows.targets).gather(1, asked)
    plain = memory.forward_plain(tokens)
    probe, blocks = _quarter(memory, task), torch.from_numpy(rows.where) // task.block_size
    bank = memory.build_bank(plain, probe.plan.shape)

    def accuracy(hidden: Tensor) -> float:
        at = asked - task.length + hidden.shape[1]
        hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
        return (memory.model.logits(hidden).argmax(-1) == values).float().mean().item()

    def behind(levels: Tensor, width: int) -> float:
        return accuracy(read_layouts(memory, bank, levels[None], width))

    generator = torch.Generator().manual_seed(zlib.crc32(rows.tokens.tobytes()))
    layouts = {kind: choose_levels(memory, probe, plain, bank, kind, generator) for kind in ("random", "gists")}
    found = {"full_accuracy": accuracy(plain.hidden), "gist_accuracy": behind(layouts["gists"], coarsest(probe.compression).width)}
    if not task.named:
        return found
    # A pair that stands across two blocks needs both.
    across = (torch.from_numpy(rows.where) + 1).div(task.block_size, rounding_mode="floor").clamp(max=task.blocks - 1)
    needed = torch.zeros(len(tokens), task.blocks).scatter_(1, across, 1.0).scatter_(1, blocks, 2.0)
    layouts |= {"focus": choose_levels(memory, probe, plain, bank, "lens", generator), "oracle": by_score(probe.compression, needed)}
    found |= {f"{kind}_accuracy": behind(layouts[kind], probe.compression.width) for kind in ("focus", "random", "oracle")}
    found["lens_hit_rate"] = (layouts["focus"].gather(1, blocks) == 0).float().mean().item()
    return found


def _quarter(memory: MemoryModel, task: Task) -> Probe:
    """Budget at which a quarter of the far blocks, rounded down, stays raw."""
    plan, K = memory.plan, task.block_size
    raw = task.blocks // 4
    before = task.length - plan.horizon - task.blocks * K
    width = before + raw * K + (task.blocks - raw) * memory.config.geometry.slots
    return make_probe(memory, plan.horizon, width, plan.recent)


if __name__ == "__main__":
    run(main)
