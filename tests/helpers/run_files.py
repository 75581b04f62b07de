"""Metrics files as training writes them, without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from nanochat.tracking.run_log import METRICS_FILE, RUN_FILE
from nanochat.tracking.sinks import JsonlSink

BATCH, ROW = 8192, 512
IDENTITY = {"depth": 4, "aspect_ratio": 64, "head_dim": 64, "kv_heads": 0, "window_pattern": "L", "max_seq_len": ROW, "vocab_size": 8192}
IDENTITY |= {"tokenizer": "abc"}


def write_run(
    folder: Path, steps: int = 300, every: int = 10, memory: bool = False, offset: float = 0.0, **more: Any
) -> list[dict[str, Any]]:
    """A run of `steps` steps whose loss is 3 + 6·exp(−step / 60) + `offset`; twice the time and FLOPs with a memory.

    `more` goes into every training record; where it is a function, of the step. Returns the records.
    """
    cost = 2.0 if memory else 1.0
    sink = JsonlSink(folder / METRICS_FILE)
    for step in range(every, steps + 1, every):
        axes = {"step": step, "total_tokens": step * BATCH, "total_training_flops": 1e9 * step * cost, "total_training_time": step * cost}
        loss = 3 + 6 * math.exp(-step / 60) + offset
        record = axes | {"train/loss": loss + memory, "train/lrm": 1 - step / steps, "train/data_hash": 1000 + step}
        record |= {"train/tokens_per_step": BATCH, "train/tok_per_sec": BATCH / cost}
        if memory:
            record |= {"train/loss_lod0": loss, "mc/effective_step": 2.0 * step * BATCH / ROW, "mc/token_loss": loss + 0.5}
        record |= {key.replace("__", "/"): value(step) if callable(value) else value for key, value in more.items()}
        sink.log(record)
        if step % (10 * every) == 0:
            sink.log(axes | {"val/bpb": loss / 2})
    sink.close()
    return [json.loads(line) for line in sink.path.read_text().splitlines()]


def write_info(folder: Path, steps: int, **identity: Any) -> None:
    """The run.json of a run."""
    (folder / RUN_FILE).write_text(json.dumps({"steps": steps, "identity": IDENTITY | identity, "least": {}}))
