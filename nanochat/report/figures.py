"""Figures of the report and of the lab, as the bytes of PNG files. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nanochat.markdown import visible
from nanochat.tracking.run_reader import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 140
INK = "#333333"
COLOURS = ("#2f6db3", "#c8553d", "#3f8f5b", "#8a5fb0", "#b0893c", "#4aa3a3")
LEGEND = {"frameon": False, "labelcolor": INK}
_GRID = "#dddddd"
_LABEL_HEIGHT, _LABEL_WIDTH = 0.065, 0.16  # of a panel: distance between labels at the ends of curves
_LONGEST = 44  # characters of a name at an axis
_WIDE = 3  # panels in a row of a chart with more than four
_NARROWEST = 4.0  # least ratio of last x to first x for the distance between markers
_SPREAD = 0.012  # of the axis, between the markers of curves at one x: intervals would cover each other
_TICKS = 7  # on the x axis of a chart

Records = Sequence[Mapping[str, Any]]
Chart = Mapping[str, Any]


class Curve(NamedTuple):
    """A line through (x, value) pairs. A `smoothed` one is drawn smooth (`run_reader.smooth`) over its faint points."""

    label: str
    points: list[tuple[float, float]]
    colour: str
    smoothed: bool = False


class Panel(NamedTuple):
    """Curves on one pair of axes; `limits` of the values, if some may be far out."""

    title: str
    curves: list[Curve]
    limits: tuple[float, float] | None = None


def curves_png(records: Records, title: str) -> bytes | None:
    """train/loss and val/bpb of metric records against tokens; None if there is nothing to draw."""
    loss, bpb = (Curve("", points(records, name), COLOURS[i]) for i, name in enumerate(("train/loss", "val/bpb")))
    return panels_png([Panel("training loss (nats per token)", [loss]), Panel("validation bits per byte", [bpb])], title)


def memory_png(records: Records, title: str) -> bytes | None:
    """Metrics of the memory against tokens: ΔNLL, recovery, loss by level, correlation of LensNet's preferences."""
    names = sorted({name for record in records for name in record if name.startswith("mc/")}, key=_by_number)

    def curves(*prefixes: str, smoothed: bool = False) -> list[Curve]:
        chosen = [name for name in names if name.startswith(prefixes)]
        return [Curve(_series_name(name), points(records, name), colour(i), smoothed) for i, name in enumerate(chosen)]

    correlation = Curve("", points(records, "mc/preference_corr_mean"), COLOURS[0], smoothed=True)
    panels = [
        Panel("ΔNLL behind the full context (nats)", curves("mc/delta_nll@", "mc/delta_nll_random@")),
        Panel("recovery of the far context's gain", curves("mc/recovery@", "mc/recovery_random@"), limits=(-0.5, 1.5)),
        Panel("loss at entries by level (nats)", curves("mc/lod_loss/", smoothed=True)),
        Panel("preference correlation (−1 is perfect)", [correlation], limits=(-1.0, 1.0)),
    ]
    return panels_png(panels, title)


def points(records: Records, key: str) -> list[tuple[float, float]]:
    """(tokens, value) of each record that has both."""
    return [(r["total_tokens"], r[key]) for r in records if r.get("total_tokens") is not None and r.get(key) is not None]


def panels_png(panels: Sequence[Panel], title: str, x: str = "tokens") -> bytes | None:
    """The panels that have points, two in a row, on axes called `x` from 0; None if there are none."""
    panels = [panel._replace(curves=[curve for curve in panel.curves if curve.points]) for panel in panels]
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        return None
    columns, rows = min(2, len(panels)), -(-len(panels) // 2)
    figure = new_figure(5.2 * columns, 3.5 * rows)
    end = max(curve.points[-1][0] for panel in panels for curve in panel.curves)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_panel(axes, panel, x)
        axes.set_xlim(0, end)
    return to_png(figure, title)


def check_chart(chart: Any) -> None:
    """Raises `ValueError` if `chart` is not one: name, title, caption, labels, and panels of curves.

    A point is (x, value) or (x, value, low, high), with x above 0 as its axis is logarithmic. A panel may have `limits`, `log`,
    `from_zero` and the name of its `x` axis.
    """
    try:
        name, title, caption, panels, labels = (chart[key] for key in ("name", "title", "caption", "panels", "labels"))
        curves = [curve for panel in panels for curve in panel["curves"] if isinstance(panel["title"], str)]
        points = [point for curve in curves for point in curve["points"] if curve["label"] in labels]
        good = all(isinstance(text, str) for text in (name, title, caption)) and name.isidentifier() and bool(curves)
        good = good and all(len(p) in (2, 4) and p[0] > 0 and all(isinstance(value, int | float) for value in p) for p in points)
    except (KeyError, TypeError):
        good = False
    if not good:
        raise ValueError(f"invalid chart {chart!r:.200}; expected name, title, caption, labels, and panels of curves with points")


def chart_png(chart: Chart) -> bytes | None:
    """A chart as `check_chart` describes it; None if no panel has a point."""
    panels = [{**panel, "curves": [c for c in panel["curves"] if c["points"]]} for panel in chart["panels"]]
    panels = [panel for panel in panels if panel["curves"]]
    if not panels:
        return None
    labels = chart["labels"]
    columns = min(_WIDE if len(panels) > 4 else 2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(12 / max(columns, 2) * columns, 3.1 * rows + 0.6)
    for place, panel in enumerate(panels, start=1):
        _draw_chart_panel(figure.add_subplot(rows, columns, place), panel, labels)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    used = {curve["label"] for panel in panels for curve in panel["curves"]}
    _legend_below(figure, {label: colour(i) for i, label in enumerate(labels) if label in used})
    return to_png(figure, chart["title"])


def intervals_png(names: Sequence[str], series: Mapping[str, Sequence[tuple[int, float, float, float]]], title: str) -> bytes | None:
    """Shares 0 … 1 with their intervals, one row for each of `names`; None if there are none.

    `series` maps a label to points (index in `names`, value, low, high).
    """
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    figure = new_figure(8.0, 0.8 + 0.42 * len(names))
    axes = figure.add_subplot()
    for number, (label, shown) in enumerate(series.items()):
        shift = 0.22 * (number - (len(series) - 1) / 2)
        y = [index + shift for index, *_ in shown]
        for place, (_, _, low, high) in zip(y, shown, strict=True):
            axes.plot([low, high], [place, place], color=colour(number), linewidth=1.6, alpha=0.7)
        axes.plot([value for _, value, *_ in shown], y, "o", color=colour(number), markersize=5, label=_shortened(label))
    dress(axes, title, "")
    axes.set_xlim(-0.02, 1.02)
    name_rows(axes, [_shortened(name) for name in names])
    axes.legend(fontsize=8, loc="lower left", ncols=len(series), bbox_to_anchor=(0.5, 1.0), **LEGEND)
    return to_png(figure)


def colour(number: int) -> str:
    """Colour of curve `number`; they repeat."""
    return COLOURS[number % len(COLOURS)]


def new_figure(width: float, height: float) -> Figure:
    """Empty figure, `width` × `height` inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, title: str = "") -> bytes:
    """The figure under a title."""
    if title:
        figure.suptitle(title, color=INK, fontsize=11, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def dress(axes: Axes, title: str, x: str) -> None:
    """Gives axes the common look: title, name of the x axis, grid, no frame."""
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Makes the y axis one row for each name, downwards."""
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _draw_panel(axes: Axes, panel: Panel, x_name: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    inside = panel.limits is None  # values that are far out are cut off at the frame
    ends = []
    for curve in panel.curves:
        x, y = zip(*curve.points, strict=True)
        if curve.smoothed:
            axes.plot(x, y, color=curve.colour, linewidth=0.8, alpha=0.3, clip_on=not inside)
            y = smooth(y)
        marker = "o" if len(x) <= 30 and not curve.smoothed else None
        axes.plot(x, y, color=curve.colour, linewidth=1.8, marker=marker, markersize=4, clip_on=not inside, label=curve.label)
        ends.append((y[-1], x[-1], curve.colour))
    dress(axes, panel.title, x_name)
    axes.margins(x=0, y=0.08)
    if panel.limits:
        axes.set_ylim(*panel.limits)
    if len(panel.curves) > 1:
        axes.legend(fontsize=8, **LEGEND)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Writes the last value of each curve next to it, pushed up if it would cover one below."""
    low, high = axes.get_ylim()
    width = max(x for _, x, _ in ends) * _LABEL_WIDTH
    placed: list[tuple[float, float]] = []
    for y, x, ink in sorted(ends):
        height = min(max((y - low) / (high - low), 0.0), 1.0)
        height = max([height, *(below + _LABEL_HEIGHT for other, below in placed if abs(other - x) < width)])
        placed.append((x, height))
        place = {"xycoords": ("data", "axes fraction"), "xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        shown = f"{y:.4f}" if abs(y) < 100 else f"{y:,.0f}"
        axes.annotate(shown, (x, height), **place, annotation_clip=False, color=ink, fontsize=9, fontweight="bold")


def _draw_chart_panel(axes: Axes, panel: Mapping[str, Any], labels: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    places = sorted({point[0] for curve in panel["curves"] for point in curve["points"]})
    for curve in panel["curves"]:
        number = labels.index(curve["label"])
        shift = max(places[-1] / places[0], _NARROWEST) ** (_SPREAD * (number - (len(labels) - 1) / 2))
        x, y = [point[0] * shift for point in curve["points"]], [point[1] for point in curve["points"]]
        axes.plot(x, y, color=colour(number), linewidth=1.6, marker="o", markersize=3.5, label=curve["label"])
        for place, point in zip(x, curve["points"], strict=True):
            if len(point) == 4:
                axes.plot([place, place], point[2:], color=colour(number), linewidth=1.0, alpha=0.6)
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
    axes.set_xticks(places[:: -(-len(places) // _TICKS)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _compact(x)))


def _legend_below(figure: Figure, colours: Mapping[str, str]) -> None:
    """Draws one legend for all panels, unless there is only one label."""
    from matplotlib.lines import Line2D

    if len(colours) > 1:
        handles = [Line2D([], [], color=colour, marker="o", markersize=4, label=label) for label, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=9, **LEGEND)


def _series_name(name: str) -> str:
    """mc/delta_nll_random@32 → random, 32 tokens; mc/lod_loss/1 → LOD1."""
    if "@" in name:
        kind, _, horizon = name.partition("@")
        return f"{'random' if kind.endswith('_random') else 'LensNet'}, {horizon} tokens"
    return f"LOD{name.rpartition('/')[2]}"


def _by_number(name: str) -> tuple[str, int]:
    """Sort key that puts @32 before @128."""
    stem, _, number = name.partition("@")
    return stem, int(number or 0)


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
