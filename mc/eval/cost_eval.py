"""Cost of a history, from a thousand tokens to a million: latency, reading, refocusing, bytes on disk, peak device memory.

Sessions of all lengths are open in one process and take turns token by token, next to a plain cache with as many entries, so that
ratios hold on a machine whose speed varies. Times are of one row, in milliseconds.
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
from mc.loading import load_memory
from mc.memory_model import MemoryModel
from mc.session.base_session import Session, session_spec
from mc.session.disk_tree import DiskTree
from mc.session.session import MCSession, start_session
from mc.session.store import FOCUS
from mc.session.tree import RamTree
from mc.session.tree_builder import PIECE
from nanochat.checkpoint.load_model import Stage
from nanochat.common import UserError
from nanochat.infer.engine import Engine
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.timers import SpanTimers
from nanochat.runtime.device import RuntimeFlags, start

TreeType = Literal["ram", "disk"]
PLAIN_READS = 4  # plain rows read for each piece of a history: one alone would be too short to time
ENDLESS = Sampling(temperature=0, max_tokens=1 << 40)
REFOCUS = ("score", "plan", "assemble")  # parts of a refocus, without the gists of new tokens and the forward of new entries
Tokens = Callable[[int, int], Tensor]  # begin, end → int64 [end − begin]


@dataclass
class Candidate:
    """A session under measurement; `rates` are tokens per second, `plain_rates` those of the model alone at the same times."""

    kind: TreeType
    history: int  # tokens before decoding
    session: Session
    spans: SpanTimers
    stream: Iterator[list[int | None]]
    entries: int = 0
    disk_bytes: int | None = None
    rates: list[float] = field(default_factory=list)
    plain_rates: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)
    refocus_ms: list[dict[str, float]] = field(default_factory=list)  # of each refocus, by parts


class TimedCache(MemoryKVCache):
    """Cache that times the forward of the entries that a refocus has changed."""

    spans: SpanTimers

    def _reprefill(self, row: int, begin: int) -> None:
        with self.spans("forward"):
            super()._reprefill(row, begin)


def measure_cost(
    memory: MemoryModel,
    config: SessionConfig,
    tokens: Tokens,
    lengths: Sequence[int],
    kinds: Sequence[TreeType],
    folder: Path,
    decode: int = 200,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Rows of figures for each kind of tree and length of history; see `_row`.

    `tokens` reads the history; the disk trees go to `folder`, which exists and is empty. Each session decodes `decode` tokens, and at
    least as many as two refocuses take. Raises `UserError` if the disk is full.
    """
    run = _CostRun(memory, config, tokens, folder)
    warm = run.open(min(lengths), "ram")
    for _ in range(2 * config.mc_infer_refocus_interval):
        next(warm.stream)
    candidates = []
    for length in sorted(lengths):
        for kind in kinds:
            candidates.append(run.open(length, kind))
            say(f"cost: {kind} {length:,} tokens read, {statistics.median(candidates[-1].rates):,.0f} tokens/s")
    plain_ms: list[float] = []
    for turn in range(max(decode, 2 * config.mc_infer_refocus_interval)):
        if turn % config.mc_infer_refocus_interval == 0:
            plain = run.plain(candidates[0].session.budget.target)
        for candidate in candidates if turn % 2 else reversed(candidates):
            candidate.token_ms.append(_timed(candidate.stream))
            if "score" in (parts := candidate.spans.collect()):
                candidate.refocus_ms.append(parts)
        plain_ms.append(_timed(plain))
    for candidate in candidates:
        candidate.session.close()
    return [_row(candidate, config.mc_infer_refocus_interval, statistics.median(plain_ms)) for candidate in candidates]


@dataclass
class _CostRun:
    """Opens the sessions and caches of `measure_cost`."""

    memory: MemoryModel
    config: SessionConfig
    tokens: Tokens
    folder: Path

    def __post_init__(self) -> None:
        self._model = self.memory.model
        self._engine, self._step = Engine(self._model), DecodeStep(self._model)

    def open(self, length: int, kind: TreeType) -> Candidate:
        """Session with a history of `length` tokens that has begun to decode."""
        folder, device = self.folder / f"history-{length}", self.memory.device
        session, spans = _new_session(self.memory, self.config, kind, folder), SpanTimers(device)
        cache = TimedCache(self._model, [session], step=self._step)
        cache.spans = spans
        candidate = Candidate(kind, length, session, spans, iter(()))
        for begin in range(0, length - 1, PIECE):
            piece = self.tokens(begin, min(begin + PIECE, length - 1))
            candidate.rates.append(len(piece) / _seconds(lambda piece=piece: session.append(piece), device))
            candidate.plain_rates.append(self._plain_rate())
        hidden = cache.append(self.tokens(length - 1, length)[None])
        _time_parts(session, spans)
        spans.collect()
        candidate.stream = self._engine.resume(cache, hidden, ENDLESS)
        next(candidate.stream)
        session.save()
        spans.collect()
        candidate.entries = len(session.context)
        if kind == "disk":
            candidate.disk_bytes = sum(path.stat().st_size for path in folder.iterdir())
        return candidate

    def plain(self, entries: int) -> Iterator[list[int | None]]:
        """Decodes with a plain cache that has read `entries` tokens."""
        cache = KVCache(self._model, 1, step=self._step)
        stream = self._engine.resume(cache, cache.append(self.tokens(0, entries)[None]), ENDLESS)
        next(stream)
        return stream

    def _plain_rate(self) -> float:
        """Tokens per second of plain reading, in rows of the model's context length."""
        T = self._model.config.max_seq_len
        rows = self.tokens(0, T)[None].to(self.memory.device)

        @torch.no_grad()
        def read() -> None:
            for _ in range(PLAIN_READS):
                KVCache(self._model, 1, T).append(rows)

        return PLAIN_READS * T / _seconds(read, self.memory.device)


def _new_session(memory: MemoryModel, config: SessionConfig, kind: TreeType, folder: Path) -> Session:
    """Empty session; a disk tree is created in `folder`."""
    spec = session_spec(memory, config)
    if kind == "disk":
        return start_session(memory, DiskTree.create(folder, {"made_by": "mc_eval"}, spec), config, file=folder / FOCUS)
    return start_session(memory, RamTree(spec, memory.device), config)


def _time_parts(session: Session, spans: SpanTimers) -> None:
    """Wraps the calls of a refocus in spans, from outside: the session itself takes no times."""
    for owner, name, span in (
        (session, "note", "note"),
        (session, "scores", "score"),
        (session.allocator, "fit", "plan"),
        (session.allocator, "plan", "plan"),
        (session.allocator, "apply", "plan"),
        (session.context, "change", "assemble"),
        *([(session.context, "entries", "assemble")] if isinstance(session, MCSession) else []),
    ):
        setattr(owner, name, _spanned(getattr(owner, name), spans, span))


def _spanned(call: Callable[..., Any], spans: Callable[[str], AbstractContextManager[None]], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        with spans(name):
            return call(*arguments, **options)

    return timed


def _timed(stream: Iterator[Any]) -> float:
    """Milliseconds of the next token, whose selection synchronises with the device."""
    begin = time.perf_counter()
    next(stream)
    return (time.perf_counter() - begin) * 1e3


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
    `forward_ms` of a refocus, and `refocus_share`, the first three by the time of the tokens between two refocuses; `ingest`, tokens
    read per second, and `ingest_ratio` by plain reading. Also `mean_ms` of decoding with its refocuses; `disk_ratio`, the bytes by
    those of tokens and gists alone."""
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


class MemorySource(NamedTuple):
    """A memory's checkpoint and device type."""

    stage: Stage
    tag: str
    step: int
    device_type: str


def peak_of(source: MemorySource, config: SessionConfig, kind: TreeType, length: int, root: Path) -> float:
    """Peak device memory in MiB of a process that reads `length` random tokens into a new session and then decodes.

    A disk tree is kept in `root` meanwhile. Raises `UserError` if the process is killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, source, config, kind, length, root).result()
        except BrokenProcessPool as error:
            raise UserError(f"the measuring process for {length:,} tokens was killed (out of memory?); try --quick") from error


@torch.no_grad()
def _peak(source: MemorySource, config: SessionConfig, kind: TreeType, length: int, root: Path) -> float:
    runtime = start(RuntimeFlags(device_type=source.device_type, compile=False))
    where = (runtime.device, runtime.precision.dtype, runtime.backend)
    memory = load_memory(source.stage, source.tag, source.step, *where, lambda _: None).memory
    model, generator = memory.model, torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        session = _new_session(memory, config, kind, Path(folder) / "history")
        for begin in range(0, length - 1, PIECE):
            session.append(torch.randint(model.config.vocab_size, (min(PIECE, length - 1 - begin),), generator=generator))
        cache, engine = MemoryKVCache(model, [session]), Engine(model)
        hidden = cache.append(torch.zeros(1, 1, dtype=torch.int64))
        decoded = Sampling(temperature=0, max_tokens=2 * config.mc_infer_refocus_interval)
        for _ in engine.resume(cache, hidden, decoded):
            pass
        session.close()
    return peak_memory_mib(runtime.device)
