"""Charts and acceptance criteria of the rows that `scripts.mc_eval` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mc.eval.metric_bounds import MEMORY_BOUNDS
from mc.eval.session_baselines import SESSION_CONDITIONS
from nanochat.eval.chat_eval import Z

EvalRow = dict[str, Any]
REFERENCE = 1 << 12  # length of the history that longer ones are compared with, tokens
DECODE, PEAK, DISK, INGEST, REFOCUS = 1.15, 1.2, 1.02, 0.8, 0.05
RECALL_LENGTH = 16  # times the entries of a Working Context
RECALL, CHANCE = 0.9, 0.1  # accuracy at least; at most, of a window that sees nothing of what is asked

DELTA_NLL = "mc/delta_nll@*"
PLAIN = "plain cache of as many entries"


class Criterion(NamedTuple):
    """A figure, its limit, and whether the limit is met."""

    figure: str
    value: float
    limit: str
    met: bool

    def row(self) -> dict[str, Any]:
        """Row of a report."""
        return {**self._asdict(), "met": "met" if self.met else "missed"}

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'missed'}  {self.figure}: {self.value:.4g} ({self.limit})"


def cost_criteria(rows: Sequence[EvalRow]) -> list[Criterion]:
    """Criteria on the cost of the longest history, for each kind of tree."""
    criteria: list[Criterion] = []
    for kind in dict.fromkeys(row["tree"] for row in rows):
        mine = sorted((row for row in rows if row["tree"] == kind), key=lambda row: row["tokens"])
        last = mine[-1]
        first = next((row for row in mine if row["tokens"] >= REFERENCE), last)
        name = f"{kind}, {last['tokens']:,} tokens"
        if first is not last:
            than = f"{name} by {first['tokens']:,}"
            criteria.append(_at_most(f"time of a token, {than}", last["token_ms"] / first["token_ms"], DECODE))
            if kind == "disk":
                criteria.append(_at_most(f"peak memory, {than}", last["peak_mib"] / first["peak_mib"], PEAK))
        if last["disk_ratio"] is not None:
            criteria.append(_at_most(f"bytes on disk by those of tokens and gists, {name}", last["disk_ratio"], DISK))
        criteria.append(_at_least(f"reading by reading without a memory, {name}", last["ingest_ratio"], INGEST))
        criteria.append(_at_most(f"refocus by the time of the tokens it serves, {name}", last["refocus_share"], REFOCUS))
    return criteria


def delta_nll_criteria(delta_nll: Mapping[int, float]) -> list[Criterion]:
    """Criteria on ΔNLL with LensNet's layouts, by horizon."""
    (most,) = [bound.rule.high for bound in MEMORY_BOUNDS if bound.metric == DELTA_NLL]
    return [_at_most(f"ΔNLL@{horizon}", value, most) for horizon, value in sorted(delta_nll.items())]


def recall_criteria(rows: Sequence[EvalRow], width: int) -> list[Criterion]:
    """Criteria on each suite at 16 times the width: recall with LensNet's focus, and none with a window."""
    criteria: list[Criterion] = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        here = {row["condition"]: row["accuracy"] for row in rows if (row["suite"], row["tokens"]) == (suite, RECALL_LENGTH * width)}
        if "lens" in here:
            criteria.append(_at_least(f"{suite}, {RECALL_LENGTH} × W, gists + focus", here["lens"], RECALL))
        if "window" in here:
            criteria.append(_at_most(f"{suite}, {RECALL_LENGTH} × W, window", here["window"], CHANCE))
    return criteria


def _at_most(figure: str, value: float, limit: float) -> Criterion:
    return Criterion(figure, value, f"at most {limit}", value <= limit)


def _at_least(figure: str, value: float, limit: float) -> Criterion:
    return Criterion(figure, value, f"at least {limit}", value >= limit)


def charts(text: Sequence[EvalRow], suites: Sequence[EvalRow], cost: Sequence[EvalRow]) -> list[dict[str, Any]]:
    """Charts of the rows, those that have a point; see `nanochat.report.figures`."""
    made = []
    if text:
        made.append(
            _chart("text", "Long documents", "What is gained over the window, by tokens of history", _text_panels(text), SESSION_CONDITIONS)
        )
    if suites:
        panels = [
            {"title": name, "limits": [0, 1], "curves": _curves([r for r in suites if r["suite"] == name], "condition", _accuracy)}
            for name in dict.fromkeys(row["suite"] for row in suites)
        ]
        made.append(
            _chart("suites", "Recall: accuracy with 95 % intervals", "Accuracy by suite, length and condition", panels, SESSION_CONDITIONS)
        )
    if cost:
        made.append(
            _chart("cost", "Cost of a history", "Time, memory and disk by tokens of history", _cost_panels(cost), ("ram", "disk", PLAIN))
        )
    for chart in made:
        chart["panels"] = [panel for panel in chart["panels"] if panel["curves"]]
    return [chart for chart in made if chart["panels"]]


def _chart(name: str, title: str, caption: str, panels: list[dict[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "title": title, "caption": caption, "panels": panels, "labels": list(labels)}


def _curves(rows: Iterable[EvalRow], key: str, point: Callable[[EvalRow], list[float] | None]) -> list[dict[str, Any]]:
    """One curve for each value of `key` that has points."""
    curves: dict[str, list[list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"]):
        if (made := point(row)) is not None:
            curves.setdefault(row[key], []).append(made)
    return [{"label": label, "points": points} for label, points in curves.items()]


def _accuracy(row: EvalRow) -> list[float]:
    return [row["tokens"], row["accuracy"], row["low"], row["high"]]


def _with_error(name: str) -> Callable[[EvalRow], list[float] | None]:
    """Points of a figure, with its 95 % interval if it has an error."""

    def point(row: EvalRow) -> list[float] | None:
        value, error = row[name], row[f"{name}_error"]
        if value is None:
            return None
        return [row["tokens"], value] if error is None else [row["tokens"], value, value - Z * error, value + Z * error]

    return point


def _text_panels(rows: Sequence[EvalRow]) -> list[dict[str, Any]]:
    panels = []
    for horizon in sorted({row["horizon"] for row in rows}):
        others = [row for row in rows if row["horizon"] == horizon and row["condition"] != "window"]
        title = f"loss below the window's, {horizon} tokens to come (nats)"
        panels.append({"title": title, "curves": _curves(others, "condition", _with_error("gain"))})
        behind = [row for row in rows if row["horizon"] == horizon and row["condition"] != "full"]
        title = f"loss above the full context's, {horizon} tokens to come (nats)"
        curves = _curves(behind, "condition", _with_error("delta_nll"))
        if any(len(curve["points"]) > 1 for curve in curves):
            panels.append({"title": title, "curves": curves})
    return panels


def _cost_panels(rows: Sequence[EvalRow]) -> list[dict[str, Any]]:
    plain = {row["tokens"]: {"tree": PLAIN, "tokens": row["tokens"], "token_ms": row["plain_ms"]} for row in rows}

    def of(name: str, scale: float = 1.0) -> Callable[[EvalRow], list[float] | None]:
        return lambda row: None if row.get(name) is None else [row["tokens"], scale * row[name]]

    return [
        {"title": "milliseconds a token, median", "from_zero": True, "curves": _curves([*rows, *plain.values()], "tree", of("token_ms"))},
        {"title": "refocus, % of the time of its tokens", "from_zero": True, "curves": _curves(rows, "tree", of("refocus_share", 100.0))},
        {"title": "peak memory of the process (MiB)", "from_zero": True, "curves": _curves(rows, "tree", of("peak_mib"))},
        {"title": "tokens read a second", "from_zero": True, "curves": _curves(rows, "tree", of("ingest"))},
        {"title": "bytes on disk", "log": True, "curves": _curves(rows, "tree", of("disk_bytes"))},
    ]
