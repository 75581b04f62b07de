"""What a memory is worth on long documents, through sessions: the tokens to come, predicted behind a history of growing length.

A document is read up to a decision point; the `H` tokens after it are predicted under each of `mc.eval.session_baselines`, token by token
from the cache as at inference. Documents are paired, so differences have the errors of paired differences. Shapes: `H` horizon,
`N` documents, `B` rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.config import SessionConfig
from mc.eval.paired_stats import Estimate, PairedComparison, compare_rows
from mc.eval.row_eval import plain_forward
from mc.eval.session_baselines import Condition, Opened, Reader, forced, joined
from mc.nets.attention_probe import attention_mass
from mc.session.hooks import SessionHooks
from mc.train.controller import MCController
from nanochat.infer.fast_decode import DecodeStep

NEEDED_BLOCKS = 2  # blocks that the oracle of a text asks for: those that the horizon attends to most


@dataclass(frozen=True)
class Effort:
    """How much is measured: up to `examples` histories of each length, `rows` of them gone on with at once.

    `full_limit` is the most tokens that the condition `full` may have.
    """

    examples: int
    rows: int
    full_limit: int


class TextPoint(NamedTuple):
    """A document cut after `length` tokens: the loss of each of the next tokens in nats, fp32 [H], by condition."""

    document: int
    length: int
    losses: dict[str, Tensor]


class _Waiting(NamedTuple):
    """A history that is open under a condition, and what comes after it, int64 [H]."""

    point: TextPoint
    condition: Condition
    opened: Opened
    targets: Tensor


def measure_text(
    controller: MCController,
    documents: Sequence[Tensor],
    config: SessionConfig,
    lengths: Sequence[int],
    horizon: int,
    conditions: Sequence[Condition],
    effort: Effort,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    hooks: SessionHooks | None = None,
) -> list[TextPoint]:
    """The losses of `documents`, int64 [n] each, cut at every one of `lengths` that leaves `horizon` tokens behind it.

    Of each length the first `effort.examples` documents that are long enough are measured.
    """
    step = DecodeStep(controller.model)
    left = dict.fromkeys(sorted(lengths), effort.examples)
    points: list[TextPoint] = []
    waiting: list[_Waiting] = []
    for number, tokens in enumerate(documents):
        cuts = [length for length in left if left[length] and length + horizon <= len(tokens)]
        if not cuts:
            continue
        reader = Reader(controller, config, effort.full_limit, step, hooks)
        for cut in cuts:
            left[cut] -= 1
            reader.read(tokens[reader.length : cut])
            point = TextPoint(number, cut, {})
            points.append(point)
            needed = _attended(controller, tokens[: cut + horizon], horizon) if "oracle" in conditions and cut <= effort.full_limit else []
            for condition in conditions:
                opened = reader.open(condition, seed + number, needed) if needed or condition != "oracle" else None
                if opened is not None:
                    waiting.append(_Waiting(point, condition, opened, tokens[cut : cut + horizon]))
            if len(waiting) >= effort.rows:
                _go_on(controller, waiting, step)
        say(f"text: document {number}, {', '.join(f'{cut:,}' for cut in cuts)} tokens")
    _go_on(controller, waiting, step)
    return points


@torch.no_grad()
def _go_on(controller: MCController, waiting: list[_Waiting], step: DecodeStep) -> None:
    """Measures what waits, and empties the list."""
    if not waiting:
        return
    model = controller.model
    targets = torch.stack([row.targets for row in waiting]).to(model.wte.weight.device)
    rows = joined(model, [row.opened for row in waiting], step)
    losses = [F.cross_entropy(model.logits(hidden), targets[:, i], reduction="none") for i, hidden in enumerate(forced(rows, targets))]
    for row, values in zip(waiting, torch.stack(losses, dim=1).cpu(), strict=True):
        row.point.losses[row.condition] = values
    waiting.clear()


@torch.no_grad()
def _attended(controller: MCController, tokens: Tensor, horizon: int) -> list[tuple[int, int]]:
    """The blocks before the horizon that its predictions attend to most behind the full history, but for those at its end."""
    model, K = controller.model, controller.config.block_size
    blocks = (len(tokens) - horizon - controller.plan.recent) // K
    if blocks < 1:
        return []
    plain = plain_forward(model, tokens[None].to(model.wte.weight.device))
    queries = torch.arange(len(tokens) - horizon - 1, len(tokens) - 1, device=plain.hidden.device)
    mass = attention_mass(model, plain.embedded, plain.inputs, queries[None])
    best = mass[0, 0, : blocks * K].view(blocks, K).sum(1).topk(min(NEEDED_BLOCKS, blocks)).indices
    return [(block * K, (block + 1) * K) for block in best.tolist()]


def text_rows(points: Sequence[TextPoint], horizons: Sequence[int]) -> list[dict[str, Any]]:
    """What the losses come to by length, horizon and condition, in nats: `nll`; `gain`, what the condition is better by than the
    window; and where the full history was read, `delta_nll` and `recovery` (see `mc.eval.paired_stats`), else None. Errors are standard
    errors of paired differences, None where there is one document."""
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
    estimates = {
        "nll": compared.mean(name),
        "gain": compared.difference("window", name) if window else None,
        "delta_nll": compared.delta_nll(name) if full else None,
        "recovery": compared.recovery(name) if full and window else None,
    }
    return {key: value for figure, estimate in estimates.items() for key, value in _both(figure, estimate).items()}


def _both(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, error = (None, None) if estimate is None else estimate
    return {name: _number(value), f"{name}_error": _number(error)}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
