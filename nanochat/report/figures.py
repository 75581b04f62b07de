"""Figures of the report. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nanochat.markdown import visible
from nanochat.tracking.run_reader import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, _GRID = "#333333", "#dddddd"
_LOSS, _BPB = "#2f6db3", "#c8553d"
COLOURS = (_LOSS, _BPB, "#3f8f5b", "#8a5fb0", "#b0893c", "#4aa3a3")
_LABEL_HEIGHT, _LABEL_WIDTH = 0.065, 0.16  # of a panel: labels at the ends of curves keep this distance

Records = Sequence[Mapping[str, Any]]
Chart = Mapping[str, Any]
_LONGEST = 44  # characters of a name beside an axis
_WIDE = 3  # panels in a row where there are more than four
_NARROWEST = 4.0  # the last x by the first, as far as the markers' distance goes
_SPREAD = 0.012  # of the axis, between the markers of curves at one x: intervals would cover each other


class Curve(NamedTuple):
    """A line: (x, value) pairs. A `smoothed` one is drawn so (`run_records.smooth`), over its points drawn faintly."""

    label: str
    points: list[tuple[float, float]]
    colour: str
    smoothed: bool = False


class Panel(NamedTuple):
    """Curves over one pair of axes; `limits` of the values where some may be far out."""

    title: str
    curves: list[Curve]
    limits: tuple[float, float] | None = None


def curves_png(records: Records, title: str) -> bytes | None:
    """train/loss and val/bpb against tokens as the bytes of a PNG; None where there is nothing to draw.

    `records` are metric records; values that are missing or null are left out.
    """
    loss = Curve("", points(records, "train/loss"), _LOSS)
    bpb = Curve("", points(records, "val/bpb"), _BPB)
    return panels_png([Panel("training loss (nats per token)", [loss]), Panel("validation bits per byte", [bpb])], title)


def memory_png(records: Records, title: str) -> bytes | None:
    """What a memory is worth, against tokens: ΔNLL, recovery, loss by level, correlation of LensNet's preferences."""
    names = sorted({name for record in records for name in record if name.startswith("mc/")}, key=_by_number)

    def curves(*prefixes: str) -> list[Curve]:
        chosen = [name for name in names if name.startswith(prefixes)]
        return [Curve(_series_name(n), points(records, n), COLOURS[i % len(COLOURS)]) for i, n in enumerate(chosen)]

    correlation = Curve("", points(records, "mc/preference_corr_mean"), _LOSS, smoothed=True)
    panels = [
        Panel("ΔNLL behind the full context (nats)", curves("mc/delta_nll@", "mc/delta_nll_random@")),
        Panel("recovery of the far context's gain", curves("mc/recovery@", "mc/recovery_random@"), limits=(-0.5, 1.5)),
        Panel("loss at entries by level (nats)", [c._replace(smoothed=True) for c in curves("mc/lod_loss/")]),
        Panel("preference correlation (−1 is perfect)", [correlation], limits=(-1.0, 1.0)),
    ]
    return panels_png(panels, title)


def points(records: Records, key: str) -> list[tuple[float, float]]:
    """(tokens, value) of each record that has both."""
    return [(r["total_tokens"], r[key]) for r in records if r.get("total_tokens") is not None and r.get(key) is not None]


def panels_png(panels: Sequence[Panel], title: str, x: str = "tokens") -> bytes | None:
    """The panels two in a row, those without a point left out, as the bytes of a PNG; None where none is left. `x` is their axis."""
    panels = [panel._replace(curves=[curve for curve in panel.curves if curve.points]) for panel in panels]
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, rows = min(2, len(panels)), -(-len(panels) // 2)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    end = max(curve.points[-1][0] for panel in panels for curve in panel.curves)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, panel, x)
        axes.set_xlim(0, end)
    figure.suptitle(title, color=INK, fontsize=11, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw(axes: Axes, panel: Panel, x_name: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    inside = panel.limits is None  # what is far out is cut off at the frame
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
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _label_ends(axes, ends)


def dress(axes: Axes, title: str, x: str) -> None:
    """What all figures of the report have in common: title, name of the x axis, grid, no frame."""
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)


def _label_ends(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Writes the last value of each curve beside it, pushed up where it would cover one below."""
    low, high = axes.get_ylim()
    width = max(x for _, x, _ in ends) * _LABEL_WIDTH
    placed: list[tuple[float, float]] = []
    for y, x, colour in sorted(ends):
        height = min(max((y - low) / (high - low), 0.0), 1.0)
        height = max([height, *(below + _LABEL_HEIGHT for other, below in placed if abs(other - x) < width)])
        placed.append((x, height))
        place = {"xycoords": ("data", "axes fraction"), "xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(
            f"{y:.4f}" if abs(y) < 100 else f"{y:,.0f}",
            (x, height),
            **place,
            annotation_clip=False,
            color=colour,
            fontsize=9,
            fontweight="bold",
        )


def _series_name(name: str) -> str:
    """mc/delta_nll_random@32 → random layouts, 32 tokens; mc/lod_loss/1 → LOD1."""
    if "@" in name:
        kind, _, horizon = name.partition("@")
        return f"{'random' if kind.endswith('_random') else 'LensNet'}, {horizon} tokens"
    return f"LOD{name.rpartition('/')[2]}"


def _by_number(name: str) -> tuple[str, int]:
    """Orders @32 before @128."""
    stem, _, number = name.partition("@")
    return stem, int(number or 0)


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
