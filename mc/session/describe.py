"""Descriptions of a session's focus: figures, a drawing of the history by level, and the text that is raw."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mc.layout.draw import draw_history
from mc.memory_model import MemoryModel
from mc.session.allocator import raw_from
from mc.session.base_session import Session, session_spec
from mc.session.session import start_session
from mc.session.tree import RamTree
from nanochat.common import printable
from nanochat.data.tokenizer import Tokenizer

SPANS = 12  # listed at most
WORDS = 60  # characters shown of a span
REFOCUSES = 64  # measured at most, after the Working Context is full


class Span(NamedTuple):
    """Tokens `begin … end−1`."""

    begin: int
    end: int


def describe_focus(session: Session, tokenizer: Tokenizer) -> str:
    """Lines of text: the length of the history, the entries it takes, where it is raw, and the words there."""
    session.flush()
    tiling, figures, budget = session.context.tiling, session.figures, session.budget
    geometry, entries = session.tree.spec.geometry, len(tiling.lod)
    counts = enumerate(np.bincount(tiling.lod).tolist())
    levels = "".join(f", {n:,} {f'of LOD{level}' if level else 'raw'}" for level, n in counts if n)
    lines = [
        f"{session.length:,} tokens in {entries:,} of {budget.most:,} entries{levels}",
        f"residency {entries / budget.most:.0%}, swap rate {figures.swap_rate:.2f}, "
        f"since it was opened {figures.refocuses:,} refocuses with {figures.edits:,} edits",
        draw_history(tiling, session.length, geometry),
    ]
    spans = list(opened(session))
    if spans:
        lines.append(f"raw beyond the last {session.length - raw_from(session.length, geometry, budget.recent):,} tokens:")
        width = len(f"{spans[-1].end:,}")
        for begin, end in spans[:SPANS]:
            lines.append(f"  {begin:>{width},} … {end - 1:>{width},}  {beginning(session, tokenizer, Span(begin, end))}")
        if len(spans) > SPANS:
            lines.append(f"  … and {len(spans) - SPANS:,} more")
    return "\n".join(lines)


def opened(session: Session) -> Iterator[Span]:
    """Yields the spans of the history that are raw without being recent, in order."""
    lod, start = session.context.tiling
    limit = raw_from(session.length, session.tree.spec.geometry, session.budget.recent)
    raw = (lod == 0) & (start < limit)
    edges = np.diff(raw.astype(np.int8), prepend=0, append=0)
    for first, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        yield Span(int(start[first]), int(start[end - 1]) + 1)


def beginning(session: Session, tokenizer: Tokenizer, span: Span) -> str:
    """First words of a span, on one line without control characters."""
    upto = min(span.end, span.begin + 4 * WORDS)
    text = printable(" ".join(tokenizer.decode(session.tree.tokens(span.begin, upto).tolist()).split()))
    return text if len(text) <= WORDS and upto == span.end else text[: WORDS - 1] + "…"


class MeasuredFocus(NamedTuple):
    """`figures` for a table, averaged over refocuses with a full Working Context, and a `picture` of the last one."""

    figures: dict[str, Any]
    picture: str


def measure_focus(memory: MemoryModel, tokens: Tensor) -> MeasuredFocus | None:
    """Measures the focus of a session that reads `tokens`, int64 [n], one refocus at a time; None if they do not fill its context.

    swap_rate is the share of the Working Context's blocks that a refocus edits, residency the share of its entries in use. Raises
    `UserError` if the memory's positions do not work in a session.
    """
    config = memory.config.session
    session = start_session(memory, RamTree(session_spec(memory, config)), config)
    budget, interval = session.budget, session.budget.interval
    begin, end = budget.most, min(len(tokens), session.capacity, budget.most + REFOCUSES * interval)
    if end - begin < interval:
        return None
    session.append(tokens[:begin])
    swaps, residencies, edits = [], [], session.figures.edits
    for at in range(begin, end - interval + 1, interval):
        session.append(tokens[at : at + interval])
        swaps.append(session.figures.swap_rate)
        residencies.append(session.figures.residency)
    figures = {
        "tokens_read": session.length,
        "entries": budget.most,
        "refocuses": len(swaps),
        "edits": session.figures.edits - edits,
        "swap_rate": statistics.fmean(swaps),
        "residency": statistics.fmean(residencies),
    }
    return MeasuredFocus(figures, draw_history(session.context.tiling, session.length, session.tree.spec.geometry))
