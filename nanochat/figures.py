"""Figures of the report. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#333333", "#dddddd"
_LOSS, _BPB = "#2f6db3", "#c8553d"


def curves_png(records: Sequence[Mapping[str, Any]], title: str) -> bytes | None:
    """train/loss and val/bpb against tokens as the bytes of a PNG; None where there is nothing to draw.

    `records` are metric records; values that are missing or null are left out.
    """
    panels = [
        (_points(records, "train/loss"), "training loss (nats per token)", _LOSS),
        (_points(records, "val/bpb"), "validation bits per byte", _BPB),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 3.5), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    end = max(points[-1][0] for points, _, _ in panels)
    for axes, (points, label, colour) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, points, label, colour)
        axes.set_xlim(0, end)
    figure.suptitle(title, color=_INK, fontsize=11)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _points(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(tokens, value) of each record that has both."""
    return [(r["total_tokens"], r[key]) for r in records if r.get("total_tokens") is not None and r.get(key) is not None]


def _panel(axes: Axes, points: Sequence[tuple[float, float]], label: str, colour: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    x, y = zip(*points, strict=True)
    few = len(points) <= 30
    axes.plot(x, y, color=colour, linewidth=1.8, marker="o" if few else None, markersize=4, clip_on=False)
    beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{y[-1]:.4f}", (x[-1], y[-1]), **beside, color=colour, fontsize=9, fontweight="bold")
    axes.set_title(label, loc="left", fontsize=9.5, color=_INK)
    axes.set_xlabel("tokens", fontsize=9, color=_INK)
    axes.margins(x=0, y=0.08)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_INK, labelsize=8.5, length=0)
