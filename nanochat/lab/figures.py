"""Figures of the lab's report: curves of a sweep, gains with their intervals, depth sweep, scaling fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nanochat.report.figures import COLOURS, INK, LEGEND, colour, dress, name_rows, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 0.4  # of the run, at its end, where candidates differ
_STYLES = ("-", "--", ":")
_GREY = "#8a8a8a"
_FAR = 1e4  # percent, outside any frame


class Line(NamedTuple):
    """Mean curve of an experiment over its seeds: tokens, metric and seconds at the median pace, fp64 [points]."""

    name: str
    tokens: np.ndarray
    values: np.ndarray
    seconds: np.ndarray


class Bar(NamedTuple):
    """Share of time saved and the bounds of its interval."""

    name: str
    value: float
    low: float
    high: float


def curves_png(title: str, metric: str, baseline: Line, lines: Sequence[Line], threshold: float) -> bytes:
    """The end of the runs: the metric against tokens and against seconds, the baseline in black and the threshold dotted."""
    figure = new_figure(11.5, 4.0 + 0.16 * max(0, len(lines) - 4))
    for place, (axis, label) in enumerate((("tokens", "tokens"), ("seconds", "seconds in steps, at the median pace")), start=1):
        axes = figure.add_subplot(1, 2, place)
        for number, line in enumerate(lines):
            style = _STYLES[number // len(COLOURS) % len(_STYLES)]
            axes.plot(getattr(line, axis), line.values, color=colour(number), linestyle=style, linewidth=1.4, label=line.name)
        axes.plot(getattr(baseline, axis), baseline.values, color=INK, linewidth=2.2, label=baseline.name)
        axes.axhline(threshold, color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)))
        dress(axes, metric, label)
        _zoom(axes, axis, [baseline, *lines], threshold)
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = handles[-1:] + handles[:-1], labels[-1:] + labels[:-1]  # the baseline first
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5, **LEGEND)
    return to_png(figure, title)


def gains_png(title: str, bars: Sequence[Bar]) -> bytes | None:
    """Time saved to the threshold with its interval, one row per candidate; None if there is no candidate."""
    if not bars:
        return None
    figure = new_figure(9.0, 1.3 + 0.36 * len(bars))
    axes = figure.add_subplot()
    for row, bar in enumerate(bars):
        shade = COLOURS[2] if bar.low > 0 else COLOURS[1] if bar.high < 0 else _GREY
        axes.plot([max(100 * bar.low, -_FAR), min(100 * bar.high, _FAR)], [row, row], color=shade, linewidth=2.0)
        axes.plot(100 * bar.value, row, "o", color=shade, markersize=6)
        # Outside the frame, as intervals of few seeds are wide.
        axes.annotate(f"{bar.value:+.1%}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK)
    axes.axvline(0, color=INK, linewidth=1.0)
    dress(axes, "left of the line: slower", "% of the time to the target saved")
    name_rows(axes, [bar.name for bar in bars])
    ends = (min(25.0, 100 * abs(end)) for bar in bars for end in (bar.low, bar.high))
    width = 1.15 * max(4.0, *(100 * abs(bar.value) for bar in bars), *ends)
    axes.set_xlim(-width, width)  # longer intervals are cut off: one of two seeds would fill the page
    return to_png(figure, title)


def depths_png(
    title: str, metric: str, series: Mapping[str, Sequence[tuple[int, float, float]]], saved: Sequence[tuple[int, float]]
) -> bytes:
    """Depth sweep: the final metric against FLOPs with a power law and its R², and the time saved at each depth.

    `series` maps experiments to (depth, FLOPs, metric); `saved` holds (depth, share), empty without a candidate.
    """
    from nanochat.lab.scaling import power_law

    figure = new_figure(11.0 if saved else 6.5, 4.0)
    axes = figure.add_subplot(1, 2 if saved else 1, 1)
    for number, (name, points) in enumerate(series.items()):
        depths, flops, values = zip(*sorted(points), strict=True)
        law = power_law(flops, values) if len(points) > 1 else None
        shown = "" if law is None or law["r_squared"] is None else f": ∝ FLOPs^{law['exponent']:.3f}, R² {law['r_squared']:.4f}"
        shade = (INK, *COLOURS)[number % (1 + len(COLOURS))]
        axes.plot(flops, values, "o", color=shade, markersize=5, label=name + shown)
        _draw_law(axes, law, flops, color=shade, linewidth=1.2)
        if number == 0:
            for depth, x, y in zip(depths, flops, values, strict=True):
                axes.annotate(f"depth {depth}", (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8, color=INK)
    _logarithmic(axes, [x for _, x, _ in next(iter(series.values()))], y=True)
    dress(axes, f"final {metric} (log)", "training FLOPs")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=8.5, **LEGEND)
    if saved:
        axes = figure.add_subplot(1, 2, 2)
        depths, shares = zip(*sorted(saved), strict=True)
        axes.plot(depths, [100 * share for share in shares], "o-", color=COLOURS[0], linewidth=1.6)
        axes.axhline(0, color=INK, linewidth=1.0)
        axes.set_xticks(depths)
        dress(axes, "% of the time to the target saved", "depth")
    return to_png(figure, title)


def scaling_png(title: str, answer: Mapping[str, Any]) -> bytes:
    """Scaling laws: the metric against parameters for each budget with its parabola, and the best sizes against FLOPs with the law."""
    figure = new_figure(11.5, 4.2)
    axes = figure.add_subplot(1, 2, 1)
    for number, best in enumerate(answer["best"]):
        shade = colour(number)
        x, y = zip(*sorted((p["parameters"], p["value"]) for p in answer["points"] if p["budget"] == best["budget"]), strict=True)
        fit = "" if best["r_squared"] is None else f", R² {best['r_squared']:.3f}"
        axes.plot(x, y, "o", color=shade, markersize=5, label=f"{best['budget']:.2g} FLOPs{fit}")
        fine = np.geomspace(x[0], x[-1], 80)
        axes.plot(fine, np.polyval(best["parabola"], np.log(fine)), color=shade, linewidth=1.2)
        if best["inside"]:
            axes.plot(best["parameters"], best["value"], "*", color=shade, markersize=12)
    _logarithmic(axes, [point["parameters"] for point in answer["points"]])
    dress(axes, f"final {answer['metric']}; a star is a budget's best size", "scaling parameters")
    axes.legend(fontsize=8, **LEGEND)
    axes = figure.add_subplot(1, 2, 2)
    flops = [best["budget"] for best in answer["best"]]
    for number, name in enumerate(("parameters", "tokens")):
        axes.plot(flops, [best[name] for best in answer["best"]], "o", color=COLOURS[number], markersize=6, label=_law(name, answer))
        _draw_law(axes, answer["laws"].get(name), flops, color=COLOURS[number], linewidth=1.4)
    _logarithmic(axes, flops, y=True)
    dress(axes, "best size and its tokens (log)", "training FLOPs")
    axes.legend(fontsize=8, **LEGEND)
    return to_png(figure, title)


def mean_line(name: str, curves: Sequence[tuple[np.ndarray, np.ndarray]], tok_per_sec: Sequence[float]) -> Line:
    """Mean over seeds of (tokens, values), at the tokens of the first."""
    tokens = curves[0][0]
    values = np.mean([np.interp(tokens, x, y) for x, y in curves], axis=0)
    return Line(name, tokens, values, tokens / float(np.median(tok_per_sec)))


def _draw_law(axes: Axes, law: Mapping[str, Any] | None, flops: Sequence[float], **style: Any) -> None:
    if law is not None:
        x = np.geomspace(min(flops), max(flops), 50)
        axes.plot(x, law["scale"] * x ** law["exponent"], **style)


def _law(name: str, answer: Mapping[str, Any]) -> str:
    law = answer["laws"].get(name)
    if law is None:
        return name
    return f"{name} ∝ FLOPs^{law['exponent']:.2f}" + ("" if law["r_squared"] is None else f", R² {law['r_squared']:.4f}")


def _zoom(axes: Axes, axis: str, lines: Sequence[Line], threshold: float) -> None:
    """Shows the last part of the runs, at full height."""
    from matplotlib.ticker import EngFormatter

    end = max(getattr(line, axis)[-1] for line in lines)
    seen = np.concatenate([line.values[getattr(line, axis) >= (1 - _SHOWN) * end] for line in lines] + [np.array([threshold])])
    margin = 0.04 * (seen.max() - seen.min())
    axes.set_xlim((1 - _SHOWN) * end, 1.01 * end)
    axes.set_ylim(seen.min() - margin, seen.max() + margin)
    if axis == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _logarithmic(axes: Axes, x: Sequence[float], y: bool = False) -> None:
    """Makes x logarithmic with ticks at the values `x`, and optionally y with ticks at round numbers."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    places = sorted(set(x))
    axes.set_xticks(places, [f"{place:.2g}" if place >= 1e8 else f"{place / 1e6:.3g}M" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    if not y:
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Within a small range powers of ten would give one tick, or none.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high / low > 5 else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_minor_locator(NullLocator())
