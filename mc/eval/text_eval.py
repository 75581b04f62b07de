"""Evaluation on long documents through sessions: loss on the next tokens after histories of growing length.

A document is read up to a decision point; the `H` tokens after it are predicted under each condition of `mc.eval.session_baselines`,
token by token from the cache as at inference. Documents are paired: errors are those of paired differences. Shapes: `H` horizon,
`N` documents, `B` rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.eval.conditions import Condition
from mc.eval.paired_stats import Estimate, PairedComparison, compare_rows
from mc.eval.row_eval import horizon_attention
from mc.eval.session_baselines import Opened, Reader, SessionEval, forced, joined
from mc.memory_model import MemoryModel

NEEDED_BLOCKS = 2  # blocks that a text's oracle expands: those that the horizon attends to most


class TextPoint(NamedTuple):
    """Losses of the tokens of a document after the first `length`, fp32 [H] in nats, by condition."""

    document: int
    length: int
    losses: dict[str, Tensor]


class _Waiting(NamedTuple):
    """A history opened under a condition, and the tokens after it, int64 [H]."""

    point: TextPoint
    condition: Condition
    opened: Opened
    targets: Tensor


def measure_text(
    evaluation: SessionEval, documents: Sequence[Tensor], lengths: Sequence[int], horizon: int, say: Callable[[str], None] = lambda _: None
) -> list[TextPoint]:
    """Losses of `documents`, int64 [n] each, cut at every one of `lengths` that leaves `horizon` tokens after it.

    For each length the first documents that are long enough are measured.
    """
    left = dict.fromkeys(sorted(lengths), evaluation.examples)
    points: list[TextPoint] = []
    waiting: list[_Waiting] = []
    for number, tokens in enumerate(documents):
        cuts = [length for length in left if left[length] and length + horizon <= len(tokens)]
        if not cuts:
            continue
        reader = Reader(evaluation, number)
        for cut in cuts:
            left[cut] -= 1
            reader.read(tokens[reader.length : cut])
            point = TextPoint(number, cut, {})
            points.append(point)
            wanted = "oracle" in evaluation.conditions and cut <= evaluation.full_limit
            needed = _attended(evaluation.memory, tokens[: cut + horizon], horizon) if wanted else None
            targets = tokens[cut : cut + horizon]
            waiting += [_Waiting(point, condition, opened, targets) for condition, opened in reader.open_all(needed)]
            if len(waiting) >= evaluation.batch:
                _measure_waiting(evaluation, waiting)
        say(f"text: document {number}, {', '.join(f'{cut:,}' for cut in cuts)} tokens")
    _measure_waiting(evaluation, waiting)
    return points


@torch.no_grad()
def _measure_waiting(evaluation: SessionEval, waiting: list[_Waiting]) -> None:
    """Measures the waiting histories as one batch, and empties the list."""
    if not waiting:
        return
    model = evaluation.memory.model
    targets = torch.stack([row.targets for row in waiting]).to(evaluation.memory.device)
    rows = joined(evaluation, [row.opened for row in waiting])
    losses = [F.cross_entropy(model.logits(hidden), targets[:, i], reduction="none") for i, hidden in enumerate(forced(rows, targets))]
    for row, values in zip(waiting, torch.stack(losses, dim=1).cpu(), strict=True):
        row.point.losses[row.condition] = values
    waiting.clear()


@torch.no_grad()
def _attended(memory: MemoryModel, tokens: Tensor, horizon: int) -> list[tuple[int, int]] | None:
    """Spans of the blocks, recent ones excluded, that the horizon's predictions attend to most; None if there are no blocks."""
    K = memory.config.block_size
    blocks = (len(tokens) - horizon - memory.plan.recent) // K
    if blocks < 1:
        return None
    plain = memory.forward_plain(tokens[None].to(memory.device))
    best = horizon_attention(memory, plain, horizon, blocks)[0].topk(min(NEEDED_BLOCKS, blocks)).indices
    return [(block * K, (block + 1) * K) for block in best.tolist()]


def text_rows(points: Sequence[TextPoint], horizons: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of figures by length, horizon and condition, in nats: `nll`; `gain` over the window; and `delta_nll` and `recovery` (see
    `mc.eval.paired_stats`), None if the full history was not read. Errors are those of paired differences, None for one document."""
    rows: list[dict[str, Any]] = []
    for length in sorted({point.length for point in points}):
        here = [point for point in points if point.length == length]
        names = [name for name in here[0].losses if all(name in point.losses for point in here)]
        for horizon in horizons:
            losses = {name: torch.stack([point.losses[name][:horizon].mean() for point in here]) for name in names}
            compared = compare_rows(losses)
            for name in names:
                rows.append({"tokens": length, "horizon": horizon, "condition": name, "documents": len(here), **_figures(compared, name)})
    return rows


def _figures(compared: PairedComparison, name: str) -> dict[str, float | None]:
    full, window = ("full" in compared.conditions), ("window" in compared.conditions)
    unknown = Estimate(math.nan, math.nan)
    estimates = {
        "nll": compared.mean(name),
        "gain": compared.difference("window", name) if window else unknown,
        "delta_nll": compared.delta_nll(name) if full else unknown,
        "recovery": compared.recovery(name) if full and window else unknown,
    }
    return {key: value for figure, estimate in estimates.items() for key, value in estimate.columns(figure).items()}
