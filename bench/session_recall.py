"""Recall benchmark of sessions: a small model is trained to recall, and tested on histories many times its Working Context.

Key–value pairs are anywhere in the history except its last W tokens; then two keys are named, the focus moves, and their values
must be predicted (`bench.recall_rows`). The model is trained from scratch on rows of 256 tokens and then, its memory beside it, of 2,048.
Conditions, all of W entries: the last W tokens (`window`), the session without expansions (`gists`), with random expansions (`random`),
unchanged (`focus`). Chance is one in the number of values. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.recall_rows import Rows, Task, make_rows
from bench.recall_training import PlainRecall, RecallController, RecallRows, new_model, train
from bench.recall_worker import measure
from mc.config import AllocatorConfig, MCConfig, SessionConfig
from mc.eval.session_baselines import random_scores, unfocused
from mc.session.base_session import Session, session_spec
from mc.session.session import start_session
from mc.session.tree import RamTree
from nanochat.flags import flag, parse, part, run
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.train.trainer import Trainer

TAIL, K = 64, 32
ASKED = TAIL // 2  # tokens in which the named keys are asked for, without a refocus
SHORT_ROWS = Task(256, 32, 64, 64, 2 * TAIL, K)
LONG_ALL = Task(2048, 32, 64, 64, TAIL, K)
LONG_ROWS = Task(2048, 64, 64, 64, TAIL, K, named=2)
HEAD_DIM = 64  # normalised queries and keys of half the size cannot single out one key of 64 behind 2,048 tokens
ALL_ASKED = 0.25  # share of the long steps, at the start, on rows that ask for every key: they teach the model more, LensNet nothing
LENS_RATE = 6.0  # factor on LensNet's learning rates: at the nominal ones its weights stay near where they began in so few steps
RAW = 5  # far blocks of a variant that are raw
CONDITIONS = ("window", "gists", "random", "focus")


@dataclass
class SessionRecall:
    """Train a small model to recall, and measure it through sessions."""

    short_steps: int = flag(160, "steps on rows of 256 tokens that ask for every key, without a memory", unit="steps")
    long_steps: int = flag(160, "steps on rows of 2,048 tokens, with a memory", unit="steps")
    short_batch: int = flag(32, "rows of 256 tokens per step", unit="rows")
    long_batch: int = flag(4, "rows of 2,048 tokens per step", unit="rows")
    short_lr: float = flag(0.7, "factor on the nominal learning rates on short rows", unit="×")
    long_lr: float = flag(0.5, "factor on the nominal learning rates on long rows", unit="×")
    width: int = flag(512, "entries of a Working Context: W", unit="entries")
    multiples: str = flag("2,4,8,16,32,64", "lengths of histories, in Working Contexts")
    pairs: int = flag(64, "pairs per history", unit="pairs")
    rows: int = flag(100, "number of histories of each length", unit="histories")
    allocator: AllocatorConfig = part(AllocatorConfig)
    show_every: int = flag(100, "steps between measurements of the accuracy in training; -1 = none", unit="steps")
    keep: str = flag("", "file of the trained weights, loaded if it exists, else written; empty = none")
    seed: int = flag(0, "seed of weights, rows and layouts")

    def __post_init__(self) -> None:
        for name in ("short_steps", "long_steps", "short_batch", "long_batch", "width", "pairs", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not all(part.isdecimal() and int(part) for part in self.multiples.split(",")):
            raise ValueError(f"multiples is {self.multiples!r}; it must be whole numbers from 1, separated by commas")
        if min(self.lengths) < self.width + TAIL + 2 * self.pairs:
            raise ValueError(f"multiples is {self.multiples!r}; {self.pairs} pairs do not fit before the last {self.width} tokens")

    @property
    def lengths(self) -> list[int]:
        """Tokens of the histories."""
        return [int(part) * self.width for part in self.multiples.split(",")]


def new_controller(seed: int, runtime: Runtime) -> RecallController:
    """Untrained model, and a memory beside it of which LensNet learns; its variants have `RAW` raw far blocks."""
    wide = LONG_ROWS.length - LONG_ROWS.blocks * K + RAW * K + LONG_ROWS.blocks - RAW
    flags = {"block_size": K, "allocator_recent_tokens": TAIL // 2, "mc_horizon": ASKED, "mc_train_wc_length": wide}
    flags |= {"mc_infer_refocus_interval": ASKED, "mc_lr_mult": LENS_RATE}
    memory = parse(MCConfig, [f"--{name}={value}" for name, value in flags.items()])
    controller = RecallController(new_model(LONG_ROWS, HEAD_DIM, seed, runtime), memory, LONG_ROWS, seed, anneal=0.001)
    controller.init_weights(torch.Generator().manual_seed(seed + 1))
    controller.gistnet.requires_grad_(False)  # gists stay means: they cannot hold what is asked, and at LensNet's rates they distract
    return controller


def trained(config: SessionRecall, runtime: Runtime, begin: float) -> RecallController:
    """Model, trained on short rows and then, with its memory, on long ones, or both loaded from the file of weights."""
    controller, kept = new_controller(config.seed, runtime), Path(config.keep)
    if config.keep and kept.exists():
        controller.load_state_dict(load_file(kept))
        return controller.requires_grad_(False).eval()

    def show(trainer: Trainer) -> None:
        found = measure(controller, LONG_ROWS, make_rows(LONG_ROWS, 64, (config.seed, 2)))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(
            f"step {trainer.state.step}, {(time.perf_counter() - begin) / 60:.1f} min, loss {trainer.state.loss.value:.3f}: {shown}",
            flush=True,
        )

    plain, rows = PlainRecall(controller.model, SHORT_ROWS), RecallRows(SHORT_ROWS, config.seed)
    train(plain, rows, config.short_steps, config.short_batch, config.short_lr, runtime, show, config.show_every)
    rows = RecallRows(LONG_ROWS, config.seed, LONG_ALL, int(ALL_ASKED * config.long_steps * config.long_batch))
    train(controller, rows, config.long_steps, config.long_batch, config.long_lr, runtime, show, config.show_every)
    if config.keep:
        save_file(controller.state_dict(), kept)
    return controller.requires_grad_(False).eval()


def histories(config: SessionRecall, length: int) -> Rows:
    """Rows of `length` tokens with W tokens of filler before the tail."""
    far = length - config.width - TAIL
    rows = make_rows(Task(far + TAIL, config.pairs, 64, 64, TAIL, K, named=2), config.rows, (config.seed, 9, length))
    random = np.random.default_rng((config.seed, 10, length))
    filler = random.integers(LONG_ROWS.keys + LONG_ROWS.values, LONG_ROWS.vocab_size, (config.rows, config.width))
    tokens = np.concatenate([rows.tokens[:, :far], filler, rows.tokens[:, far:]], axis=1)
    return Rows(tokens, rows.asked + config.width, rows.where)


def open_session(controller: RecallController, config: SessionRecall, condition: str, seed: int) -> Session:
    """An empty session of this condition."""
    allocator = dataclasses.replace(config.allocator, allocator_soft_max_length=config.width)
    levels = 2 if max(config.lengths) <= config.width // 2 * K**2 else 3  # the coarsest nodes take half of the entries at most
    settings = SessionConfig(mc_session_lod=levels, mc_infer_refocus_interval=ASKED, allocator=allocator)
    tree = RamTree(session_spec(controller, settings))
    if condition == "gists":
        return unfocused(controller, tree, settings)
    if condition == "random":
        return start_session(controller, tree, settings, score=random_scores(seed))
    return start_session(controller, tree, settings)


@torch.no_grad()
def recalled(controller: RecallController, config: SessionRecall, rows: Rows, number: int, condition: str) -> tuple[float, float]:
    """(share of a row's values that are predicted correctly, share of their pairs that are raw)."""
    model: GPT = controller.model
    tokens, decision = torch.from_numpy(rows.tokens[number]), rows.tokens.shape[1] - 1 - ASKED
    raw = 0.0
    cache: KVCache
    if condition == "window":
        cache = KVCache(model, 1)
        cache.append(tokens[None, decision - config.width : decision])
    else:
        session = open_session(controller, config, condition, number)
        session.append(tokens[: decision - TAIL // 2])
        cache = MemoryKVCache(model, [session])
        cache.append(tokens[None, decision - TAIL // 2 : decision])
        tiling = session.context.tiling
        raw = float((tiling.lod[tiling.start.searchsorted(rows.where[number], side="right") - 1] == 0).mean())
    hidden = [cache.append(tokens[None, place : place + 1])[0] for place in range(decision, len(tokens) - 1)]
    asked: Tensor = torch.from_numpy(rows.asked[number])
    predicted = model.logits(torch.stack(hidden)[asked - decision]).argmax(-1)
    return (predicted == tokens[asked + 1]).float().mean().item(), raw


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, measures, prints a table; returns the exit code."""
    config = parse(SessionRecall, argv)
    begin = time.perf_counter()
    runtime = start(RuntimeFlags(device_type="cpu", compile=False))
    controller = trained(config, runtime, begin)
    trained_minutes = (time.perf_counter() - begin) / 60
    table = []
    for length in config.lengths:
        rows, figures = histories(config, length), {"history": length, "multiple": length / config.width}
        for condition in CONDITIONS:
            found = [recalled(controller, config, rows, number, condition) for number in range(config.rows)]
            figures[condition] = float(np.mean([accuracy for accuracy, _ in found]))
            if condition == "focus":
                figures["found"] = float(np.mean([raw for _, raw in found]))
        table.append({name: round(value, 4) for name, value in figures.items()})
        print("  ".join(f"{name} {value:g}" for name, value in table[-1].items()), flush=True)
    result = {"width": config.width, "pairs": config.pairs, "rows": config.rows, "chance": 1 / LONG_ROWS.values, "histories": table}
    print(json.dumps(result | {"training_minutes": round(trained_minutes, 2), "minutes": round((time.perf_counter() - begin) / 60, 2)}))
    return 0


if __name__ == "__main__":
    run(main)
