"""Long stage of `bench.mc_text`: sessions over many times the trained length, token by token, against a window of equal size.

A document's first H tokens are read into a session, and half a row is predicted after them. The references see what a row has: the plain
model half a row before the first predicted token ("full", which is not the whole history), or the newest W tokens ("window").
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.mc_text_setting import Bench, documents, numbers
from mc.config import AllocatorConfig, SessionConfig
from mc.eval.paired_stats import Estimate, compare_rows
from mc.eval.rolling import plain_losses
from mc.eval.row_eval import token_nll
from mc.memory_model import MemoryModel
from mc.session.base_session import session_spec
from mc.session.session import start_session
from mc.session.tree import RamTree
from nanochat.common import ensure_dir, read_json, write_json
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.memory_kv_cache import MemoryKVCache

INTERVAL = 8  # tokens between two refocuses
LEVELS = 3
MOST = 24  # documents that a history is measured on
CONDITIONS = ("full", "window", "memory")
FIGURES = ("window_minus_memory", "memory_minus_full")


def long_stage(bench: Bench, memory: MemoryModel, tokenizer: Tokenizer, tag: str) -> dict[str, Any] | None:
    """Losses behind each length of history, and the memory against a window; None if the time ran out."""
    held_out, step, tables = _held_out(bench, tokenizer), DecodeStep(memory.model), []
    for history in numbers(bench.config.histories):
        file = ensure_dir(bench.home / "results") / f"{tag}.long.W{bench.config.budget}.H{history}.json"
        if not file.exists():
            begun, rows = time.monotonic(), []
            end = history + bench.config.max_seq_len // 2 + 1
            for document in [document for document in held_out if len(document) >= end][:MOST]:
                if bench.late():
                    return None
                rows.append(_losses(memory, step, bench.config.budget, document[:end], history))
            write_json(file, {"losses": rows, "seconds": time.monotonic() - begun})
        tables.append(_table(history, read_json(file)["losses"]))
        print(f"long: {_shown(tables[-1])}", flush=True)
    return {"long": tables}


def _held_out(bench: Bench, tokenizer: Tokenizer) -> list[Tensor]:
    """The held-out documents, int64."""
    shards = open_tokens(open_source(str(bench.corpus)), tokenizer, "val")
    return [torch.from_numpy(tokens.astype(np.int64)) for tokens in documents(shards)]


@torch.no_grad()
def _losses(memory: MemoryModel, step: DecodeStep, width: int, document: Tensor, history: int) -> list[float]:
    """Mean loss of the tokens after the history, by condition."""
    model, half = memory.model, len(document) - 1 - history
    row = document[None, max(0, history - half) :]
    references = [plain_losses(model, row[:, :-1], row[:, 1:], window)[0][:, -half:].mean().item() for window in (0, width)]
    config = SessionConfig(
        mc_session_lod=LEVELS, mc_infer_refocus_interval=INTERVAL, allocator=AllocatorConfig(allocator_soft_max_length=width)
    )
    session = start_session(memory, RamTree(session_spec(memory, config), memory.device), config)
    cache = MemoryKVCache(model, [session], step=step)
    hidden = [cache.append(document[None, : history + 1])]
    hidden += [cache.append(token[None, None]) for token in document[history + 1 : -1]]
    return [*references, token_nll(model, torch.cat(hidden)[None], document[None, history + 1 :]).mean().item()]


def _table(history: int, rows: list[list[float]]) -> dict[str, Any]:
    if not rows:
        return {"history": history, "documents": 0}
    losses = dict(zip(CONDITIONS, torch.tensor(rows).T, strict=True))
    compared = compare_rows(losses, torch.arange(len(rows)))
    gain, over = compared.difference("window", "memory"), compared.delta_nll("memory")
    figures = gain.columns(FIGURES[0]) | over.columns(FIGURES[1])
    return {"history": history, "documents": len(rows), "nll_full": compared.mean("full").value, **figures}


def _shown(table: dict[str, Any]) -> str:
    about = f"{table['history']:,} tokens read before, {table['documents']} documents"
    if not table["documents"]:
        return about
    found = [f"{name.replace('_', ' ')} {Estimate(table[name], table[f'{name}_error'] or float('nan'))}" for name in FIGURES]
    return f"{about}: {', '.join(found)}"
