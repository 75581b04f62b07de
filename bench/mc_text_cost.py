"""Cost stage of `bench.mc_text`: time of a token through a session, refocuses included, by that of one behind a window as large.

Both read the same held-out text token by token, in turns, so that their ratio holds on a machine whose speed varies.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.mc_text_rolling import settings
from bench.mc_text_setting import Bench, numbers
from mc.config import AllocatorConfig, SessionConfig
from mc.eval.paired_stats import Estimate
from mc.eval.rolling import Rolling
from mc.memory_model import MemoryModel
from mc.session.base_session import session_spec
from mc.session.session import start_session
from mc.session.tree import RamTree
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.model.gpt import GPT

ROWS_BEFORE = 4  # of the history that a session has read
LEVELS = 2
CHUNK = 96  # tokens whose mean times are compared; a multiple of the intervals
CHUNKS = 10
SLIDE = 16  # tokens that the window grows by, up to its size, before it is read anew, which takes no time here


def cost_stage(bench: Bench, memory: MemoryModel, tokenizer: Tokenizer, _: str) -> dict[str, Any] | None:
    """Times at each setting of the rolling stage, for the model and for untrained ones of other depths; None if the time ran out."""
    rows, _ = bench.held_out(tokenizer)
    text, tables = rows[:, :-1].flatten(), []
    for depth in (bench.config.depth, *numbers(bench.config.cost_depths)):
        measured = memory if depth == bench.config.depth else _untrained(memory, depth)
        step = DecodeStep(measured.model)
        for setting in settings(bench.config):
            if bench.late():
                return None
            tables.append({"depth": depth, **_times(measured, step, setting, text)})
            print(f"cost: {_shown(tables[-1])}", flush=True)
    narrow = [table for table in tables if table["depth"] == bench.config.depth and table["width"] < bench.config.budget]
    return {"cost": tables} | {
        f"token_time_ratio_{table['interval']}{end}": table[f"ratio{end}"] for table in narrow for end in ("", "_error")
    }


def _untrained(memory: MemoryModel, depth: int) -> MemoryModel:
    """The memory's shape around a model of another depth, with random weights, which cost as much as others."""
    model = memory.model
    deep = GPT(replace(model.config, depth=depth), model.dtype, model.backend).init_weights(torch.Generator().manual_seed(0))
    return (
        MemoryModel(deep, memory.config, model.config.max_seq_len)
        .init_weights(torch.Generator().manual_seed(0))
        .requires_grad_(False)
        .eval()
    )


@torch.no_grad()
def _times(memory: MemoryModel, step: DecodeStep, setting: Rolling, text: Tensor) -> dict[str, Any]:
    """Milliseconds of a token through a session and behind a window, and the ratio of their means with its standard error."""
    W, timed = setting.width, (CHUNKS + 1) * CHUNK
    history = min(ROWS_BEFORE * memory.model.config.max_seq_len, len(text) - timed)
    if history < W:
        raise UserError(f"the held-out rows have {len(text):,} tokens; the cost stage needs {W + timed:,}: give more of them (--eval-rows)")
    config = SessionConfig(
        mc_session_lod=LEVELS, mc_infer_refocus_interval=setting.interval, allocator=AllocatorConfig(allocator_soft_max_length=W)
    )
    memory = copy.copy(memory)
    memory.plan = replace(memory.plan, config=replace(memory.plan.config, allocator_recent_tokens=setting.recent))
    session = start_session(memory, RamTree(session_spec(memory, config), memory.device), config)
    cache = MemoryKVCache(memory.model, [session], step=step)
    cache.append(text[None, :history])
    means: list[tuple[float, float]] = []
    for number in range(CHUNKS + 1):
        spent = [0.0, 0.0]
        for place in range(CHUNK):
            now = history + number * CHUNK + place
            if place % SLIDE == 0:
                window = KVCache(memory.model, 1, step=step)
                window.append(text[None, now - W + SLIDE : now - 1])
                window.append(text[None, now - 1 : now])
            for of, one in enumerate((cache, window)):
                begin = time.perf_counter()
                one.append(text[None, now : now + 1])
                spent[of] += time.perf_counter() - begin
        means.append((1e3 * spent[0] / CHUNK, 1e3 * spent[1] / CHUNK))
    session_ms, window_ms = zip(*means[1:], strict=True)  # without the first chunk, in which everything is cold
    ratios = [a / b for a, b in zip(session_ms, window_ms, strict=True)]
    return {
        **{"width": W, "interval": setting.interval, "history": history},
        **{"token_ms": statistics.median(session_ms), "window_ms": statistics.median(window_ms)},
        **{"ratio": statistics.fmean(ratios), "ratio_error": statistics.stdev(ratios) / len(ratios) ** 0.5},
    }


def _shown(table: dict[str, Any]) -> str:
    about = f"depth {table['depth']}, {table['width']} entries, a refocus every {table['interval']}"
    ratio = Estimate(table["ratio"], table["ratio_error"])
    return f"{about}: a token takes {table['token_ms']:.2f} ms, behind a window {table['window_ms']:.2f} ms, ratio {ratio}"
