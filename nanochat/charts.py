"""Charts of evaluations, told as plain values: figures against a length on a logarithmic axis, or by task, with their intervals.

A chart is `{"name", "title", "caption", "panels", "labels"}`; `labels` are those that its curves may have, in the order of their
colours. A panel is `{"title", "curves"}` and, where they are wanted, `"x"`, the name of its axis (by default tokens of history),
`"log"`, true for logarithmic values, `"from_zero"`, true for an axis that begins there, and `"limits"`, a pair; a curve
`{"label", "points"}` with points `[x, value]` or `[x, value, low, high]`, x above 0. matplotlib is imported only when something is
drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nanochat.figures import COLOURS, INK, dress
from nanochat.markdown import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Chart = Mapping[str, Any]
_LONGEST = 44  # characters of a name beside an axis
_WIDE = 3  # panels in a row where there are more than four
_NARROWEST = 4.0  # the last x by the first, as far as the markers' distance goes
_SPREAD = 0.012  # of the axis, between the markers of curves at one x: intervals would cover each other


def check_chart(chart: Any) -> None:
    """Raises `ValueError` for what is no chart."""
    try:
        name, title, caption, panels, labels = (chart[key] for key in ("name", "title", "caption", "panels", "labels"))
        curves = [curve for panel in panels for curve in panel["curves"] if isinstance(panel["title"], str)]
        points = [point for curve in curves for point in curve["points"] if curve["label"] in labels]
        good = all(isinstance(text, str) for text in (name, title, caption)) and bool(curves)
        good = good and all(
            len(point) in (2, 4) and point[0] > 0 and all(isinstance(value, int | float) for value in point) for point in points
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a chart has a name, title, caption and panels of curves, not {chart!r:.200}") from error
    if not good or not name.isidentifier():
        raise ValueError(f"a chart has a name, title, caption and panels of curves with points, not {chart!r:.200}")


def chart_png(chart: Chart) -> bytes | None:
    """The chart as the bytes of a PNG; None where no panel has a point."""
    panels = [{**panel, "curves": [c for c in panel["curves"] if c["points"]]} for panel in chart["panels"]]
    panels = [panel for panel in panels if panel["curves"]]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = chart["labels"]
    used = {curve["label"] for panel in panels for curve in panel["curves"]}
    columns = min(_WIDE if len(panels) > 4 else 2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(12 / max(columns, 2) * columns, 3.1 * rows + 0.6), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, start=1):
        _draw_chart(figure.add_subplot(rows, columns, place), panel, labels)
    figure.suptitle(chart["title"], color=INK, fontsize=11)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    _legend(figure, {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels) if label in used})
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def intervals_png(names: Sequence[str], series: Mapping[str, Sequence[tuple[int, float, float, float]]], title: str) -> bytes | None:
    """Shares 0 … 1 with their intervals, one row for each of `names`, as the bytes of a PNG; None where there is none.

    `series` maps a label to points (index in `names`, value, low, high).
    """
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 0.8 + 0.42 * len(names)), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (label, shown) in enumerate(series.items()):
        shift = 0.22 * (number - (len(series) - 1) / 2)
        y = [index + shift for index, *_ in shown]
        colour = COLOURS[number % len(COLOURS)]
        for place, (_, _, low, high) in zip(y, shown, strict=True):
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6, alpha=0.7)
        axes.plot([value for _, value, *_ in shown], y, "o", color=colour, markersize=5, label=_shortened(label))
    dress(axes, title, "")
    axes.set_xlim(-0.02, 1.02)
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower left", ncols=len(series), bbox_to_anchor=(0.5, 1.0))
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw_chart(axes: Axes, panel: Mapping[str, Any], labels: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    places = sorted({point[0] for curve in panel["curves"] for point in curve["points"]})
    for curve in panel["curves"]:
        number = labels.index(curve["label"])
        shift = max(places[-1] / places[0], _NARROWEST) ** (_SPREAD * (number - (len(labels) - 1) / 2))
        x, y = [point[0] * shift for point in curve["points"]], [point[1] for point in curve["points"]]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=curve["label"])
        bounds = [(place, *point[2:]) for place, point in zip(x, curve["points"], strict=True) if len(point) == 4]
        for place, low, high in bounds:
            axes.plot([place, place], [low, high], color=colour, linewidth=1.0, alpha=0.6)
    axes.set_xscale("log", base=2)
    if panel.get("log"):
        axes.set_yscale("log")
    dress(axes, panel["title"], panel.get("x", "tokens of history"))
    axes.margins(x=0.06, y=0.1)
    if panel.get("limits"):
        low, high = panel["limits"]
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    elif panel.get("from_zero"):
        axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    axes.set_xticks(_few(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _compact(x)))


def _compact(number: float) -> str:
    """1136 → 1.14k: three digits."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _shortened(name: str) -> str:
    """A name that leaves the axes room."""
    shown = visible(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _few(places: Sequence[float], most: int = 7) -> list[float]:
    """Every place, or where they are many every second, third, … of them."""
    return list(places[:: -(-len(places) // most)])


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """One for all panels, below them, where there is something to tell apart."""
    from matplotlib.lines import Line2D

    if len(colours) > 1:
        handles = [Line2D([], [], color=colour, marker="o", markersize=4, label=label) for label, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=9, frameon=False, labelcolor=INK)
