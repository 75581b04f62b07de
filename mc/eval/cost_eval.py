"""What a history costs, from a thousand tokens to a million: time per token, bytes on disk, reading it in, moving the
focus. Memory is measured in `mc.eval.cost_eval`.

Sessions of all lengths are open in one process and take turns token by token, beside a plain cache with as many entries, so that
ratios hold on a machine that is slow at times. Times are of one row, in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.loading import load_controller
from mc.session.disk_tree import DiskTree
from mc.session.session import MCSession, session_spec
from mc.session.store import FOCUS
from mc.session.tree import MegaContextTree, RamTree
from mc.session.tree_builder import PIECE
from mc.train.controller import MCController
from nanochat.checkpoint.load_model import Stage
from nanochat.common import UserError
from nanochat.infer.engine import Engine
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPT
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.timers import SpanTimers
from nanochat.runtime.device import RuntimeFlags, start

Kind = Literal["ram", "disk"]
PLAIN_READS = 4  # rows that the model reads without a memory for each piece of a history: one of them alone would be too short to time
ENDLESS = Sampling(temperature=0, max_tokens=1 << 40)
REFOCUS = ("score", "plan", "assemble")  # parts of a refocus, beside the gists of new tokens and the forward of new entries
Tokens = Callable[[int, int], Tensor]  # begin, end → int64 [end − begin]


@dataclass
class Candidate:
    """A session that is measured; `rates` are tokens per second, `plain_rates` those of the model alone at the same moments."""

    kind: Kind
    history: int  # tokens before decoding
    session: MCSession
    spans: SpanTimers
    stream: Iterator[list[int | None]]
    entries: int = 0
    disk_bytes: int | None = None
    rates: list[float] = field(default_factory=list)
    plain_rates: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)
    refocus_ms: list[dict[str, float]] = field(default_factory=list)  # of each refocus, by parts


class TimedCache(MemoryKVCache):
    """A cache that tells how long it reads what a refocus has changed."""

    spans: SpanTimers

    def _reprefill(self, row: int, begin: int) -> None:
        with self.spans("forward"):
            super()._reprefill(row, begin)


def measure_cost(
    controller: MCController,
    config: SessionConfig,
    tokens: Tokens,
    lengths: Sequence[int],
    kinds: Sequence[Kind],
    folder: Path,
    decode: int = 200,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A row of figures for each kind of tree and length of history; see `_row`.

    `tokens` are those of the history, `folder`, which exists and is empty, takes the disk trees, `decode` is how many tokens each
    session decodes at least, and no less than two refocuses. Raises `UserError` where the disk is full.
    """
    model = controller.model
    engine, step = Engine(model), DecodeStep(model)
    warm = _opened(controller, config, tokens, min(lengths), "ram", folder, engine, step)
    for _ in range(2 * config.mc_infer_refocus_interval):
        next(warm.stream)
    candidates = []
    for length in sorted(lengths):
        for kind in kinds:
            candidate = _opened(controller, config, tokens, length, kind, folder, engine, step)
            candidates.append(candidate)
            say(f"cost: {kind} {length:,} tokens read, {statistics.median(candidate.rates):,.0f} tokens/s")
    plain_ms: list[float] = []
    for turn in range(max(decode, 2 * config.mc_infer_refocus_interval)):
        if turn % config.mc_infer_refocus_interval == 0:
            plain = _plain(model, engine, step, tokens, candidates[0].session.budget.target)
        for candidate in candidates if turn % 2 else reversed(candidates):
            candidate.token_ms.append(_timed(candidate.stream))
            if "score" in (parts := candidate.spans.collect()):
                candidate.refocus_ms.append(parts)
        plain_ms.append(_timed(plain))
    for candidate in candidates:
        candidate.session.close()
    return [_row(candidate, config.mc_infer_refocus_interval, statistics.median(plain_ms)) for candidate in candidates]


def _opened(
    controller: MCController,
    config: SessionConfig,
    tokens: Tokens,
    length: int,
    kind: Kind,
    folder: Path,
    engine: Engine,
    step: DecodeStep,
) -> Candidate:
    """A session with a history of `length` tokens that has begun to decode."""
    spec, device = session_spec(controller, config), controller.model.wte.weight.device
    tree: MegaContextTree = RamTree(spec, device)
    if kind == "disk":
        tree = DiskTree.create(folder / f"history-{length}", {"made_by": "mc_eval"}, spec)
    session = MCSession(controller, tree, config, file=folder / f"history-{length}" / FOCUS if kind == "disk" else None)
    spans = SpanTimers(device)
    cache = TimedCache(controller.model, [session], step=step)
    cache.spans = spans
    candidate = Candidate(kind, length, session, spans, iter(()))
    for begin in range(0, length - 1, PIECE):
        piece = tokens(begin, min(begin + PIECE, length - 1))
        candidate.rates.append(len(piece) / _seconds(lambda piece=piece: session.append(piece), device))
        candidate.plain_rates.append(_plain_rate(controller.model, tokens))
    hidden = cache.append(tokens(length - 1, length)[None])
    _time_parts(session, spans)
    spans.collect()
    candidate.stream = engine.resume(cache, hidden, ENDLESS)
    next(candidate.stream)
    session.save()
    spans.collect()
    candidate.entries = len(session.context)
    if kind == "disk":
        candidate.disk_bytes = sum(path.stat().st_size for path in (folder / f"history-{length}").iterdir())
    return candidate


def _time_parts(session: MCSession, spans: SpanTimers) -> None:
    """Puts a span around what a refocus calls: from outside, so that a session knows of no clock."""
    for owner, name, span in (
        (session, "note", "note"),
        (session, "scores", "score"),
        (session.allocator, "fit", "plan"),
        (session.allocator, "plan", "plan"),
        (session.allocator, "apply", "plan"),
        (session.context, "change", "assemble"),
        (session.context, "entries", "assemble"),
    ):
        setattr(owner, name, _spanned(getattr(owner, name), spans, span))


def _spanned(call: Callable[..., Any], spans: Callable[[str], AbstractContextManager[None]], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        with spans(name):
            return call(*arguments, **options)

    return timed


def _timed(stream: Iterator[Any]) -> float:
    """Milliseconds of the next token, which its choice waits for on any device."""
    begin = time.perf_counter()
    next(stream)
    return (time.perf_counter() - begin) * 1e3


def _plain(model: GPT, engine: Engine, step: DecodeStep, tokens: Tokens, entries: int) -> Iterator[list[int | None]]:
    """Decodes behind a plain cache of so many tokens, which has been read."""
    cache = KVCache(model, 1, step=step)
    stream = engine.resume(cache, cache.append(tokens(0, entries)[None]), ENDLESS)
    next(stream)
    return stream


def _plain_rate(model: GPT, tokens: Tokens) -> float:
    """Tokens per second that the model reads without a memory, in rows of its context length."""
    T, device = model.config.max_seq_len, model.wte.weight.device
    rows = tokens(0, T)[None].to(device)

    @torch.no_grad()
    def read() -> None:
        for _ in range(PLAIN_READS):
            KVCache(model, 1, T).append(rows)

    return PLAIN_READS * T / _seconds(read, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _row(candidate: Candidate, interval: int, plain_ms: float) -> dict[str, Any]:
    """Medians: `token_ms` of decoding, `plain_ms` of decoding without a memory; `score_ms`, `plan_ms`, `assemble_ms`, `gist_ms` and
    `forward_ms` of a refocus, and the `refocus_share` of the first three in the time of the tokens it serves; `ingest` and
    `ingest_ratio`, tokens per second and by those of plain reading. And `mean_ms` of decoding, with its refocuses; `disk_ratio`,
    the bytes by those of tokens and gists alone."""
    spec = candidate.session.tree.spec
    token_ms = statistics.median(candidate.token_ms)
    each = {name: statistics.median(parts.get(name, 0.0) for parts in candidate.refocus_ms) for name in (*REFOCUS, "note", "forward")}
    parts = {f"{name}_ms": each[name] for name in REFOCUS}
    nodes = sum(candidate.history // spec.geometry.span(level) for level in range(1, spec.max_lod + 1))
    gist = spec.geometry.slots * spec.width * torch.finfo(spec.dtype).bits // 8
    least = candidate.history * (2 if spec.vocab_size <= 1 << 16 else 4) + nodes * gist
    return {
        "tree": candidate.kind,
        "tokens": candidate.history,
        "entries": candidate.entries,
        "token_ms": token_ms,
        "mean_ms": statistics.fmean(candidate.token_ms),
        "plain_ms": plain_ms,
        **parts,
        "gist_ms": each["note"],
        "forward_ms": each["forward"],
        "refocus_share": sum(parts.values()) / (interval * token_ms),
        "ingest": statistics.median(candidate.rates),
        "ingest_ratio": statistics.median(a / b for a, b in zip(candidate.rates, candidate.plain_rates, strict=True)),
        "disk_bytes": candidate.disk_bytes,
        "disk_ratio": None if candidate.disk_bytes is None else candidate.disk_bytes / least,
    }


class Which(NamedTuple):
    """A memory in a checkpoint, and the device it runs on."""

    stage: Stage
    tag: str
    step: int
    device_type: str


def peak_of(which: Which, config: SessionConfig, kind: Literal["ram", "disk"], length: int, root: Path) -> float:
    """MiB that a process has at most which reads `length` tokens into a new session and decodes behind them.

    The tokens are random; a disk tree lies in `root` as long as it takes. Raises `UserError` where the process is killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, which, config, kind, length, root).result()
        except BrokenProcessPool as error:
            raise UserError(f"a process with {length:,} tokens of history was killed, for want of memory perhaps; give --quick") from error


@torch.no_grad()
def _peak(which: Which, config: SessionConfig, kind: Literal["ram", "disk"], length: int, root: Path) -> float:
    runtime = start(RuntimeFlags(device_type=which.device_type, compile=False))
    where = (runtime.device, runtime.precision.dtype, runtime.backend)
    controller = load_controller(which.stage, which.tag, which.step, *where, lambda _: None).controller
    spec, model = session_spec(controller, config), controller.model
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        tree: MegaContextTree = RamTree(spec, runtime.device)
        if kind == "disk":
            tree = DiskTree.create(Path(folder) / "history", {"made_by": "mc_eval"}, spec)
        session = MCSession(controller, tree, config)
        for begin in range(0, length - 1, PIECE):
            session.append(torch.randint(spec.vocab_size, (min(PIECE, length - 1 - begin),), generator=generator))
        cache, engine = MemoryKVCache(model, [session]), Engine(model)
        hidden = cache.append(torch.zeros(1, 1, dtype=torch.int64))
        decoded = Sampling(temperature=0, max_tokens=2 * config.mc_infer_refocus_interval)
        for _ in engine.resume(cache, hidden, decoded):
            pass
        session.close()
    return peak_memory_mib(runtime.device)
