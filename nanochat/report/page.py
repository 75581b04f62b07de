"""Page of a report under construction, and the formatting of numbers and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat import markdown
from nanochat.eval.chat_eval import Z

LONGEST_SAMPLE = 2_000  # characters shown
VAGUE = 0.5  # a recovery with a larger standard error is not shown
LAYOUT = "layout"  # language of fences whose lines are never wrapped


@dataclass
class Page:
    """Blocks of Markdown, and the PNG files that they show, by file name."""

    blocks: list[str] = field(default_factory=list)
    figures: dict[str, bytes] = field(default_factory=dict)

    def add(self, *blocks: str) -> None:
        """Adds blocks at the end."""
        self.blocks += blocks

    def add_if_empty(self, block: str) -> None:
        """Adds a block if the last one is the heading of a section."""
        if self.blocks[-1].startswith("## "):
            self.add(block)

    def figure(self, name: str, caption: str, png: bytes | None) -> bool:
        """Adds a figure; returns False if there is none."""
        if png is not None:
            self.figures[f"{name}.png"] = png
            self.add(f"![{markdown.escape(caption)}]({name}.png)")
        return png is not None

    @property
    def text(self) -> str:
        """The page as Markdown."""
        return "\n\n".join(self.blocks) + "\n"


def readable(timestamp: str) -> str:
    """2026-11-20T06:30:00Z → 2026-11-20 06:30:00."""
    return timestamp.replace("T", " ").removesuffix("Z")


def plus_minus(value: Any, error: Any) -> str:
    """A number with its 95 % interval, if its standard error is known."""
    if not _is_number(value):
        return markdown.number(value)
    shown = f"{round(value, 4) + 0.0:.4f}"  # + 0.0: no minus before a zero
    return f"{shown} ± {Z * error:.4f}" if _is_number(error) and error else shown


def recovery(value: Any, error: Any) -> str:
    """A share of the far context's gain, as `plus_minus`; a dash if its error is too large to mean anything."""
    return "–" if _is_number(error) and error > VAGUE else plus_minus(value, error)


def share(row: Mapping[str, Any]) -> str:
    """Accuracy of a task with its 95 % interval, in percent."""
    value, low, high = (row.get(name) for name in ("accuracy", "low", "high"))
    if not all(map(_is_number, (value, low, high))):
        return markdown.number(value)
    return f"{100 * value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def centered(rows: list[Mapping[str, Any]]) -> float | None:
    """Half of the 95 % interval of ChatCORE, the mean of independent centered accuracies; None without intervals."""
    halves = [(row["high"] - row["low"]) / 2 / (1 - row["chance"]) for row in rows if {"high", "low", "chance"} <= row.keys()]
    return sum(half**2 for half in halves) ** 0.5 / len(halves) if halves else None


def sample(prompt: str, text: str) -> str:
    """Prompt, arrow and continuation as plain text; very long ones are cut."""
    continuation = _cut(text.removeprefix(prompt))
    space = "" if continuation[:1].isspace() else " "
    return markdown.fenced(f"{_cut(prompt)} ⟶{space}{continuation}")


def _cut(text: str) -> str:
    more = len(text) - LONGEST_SAMPLE
    return f"{text[:LONGEST_SAMPLE]}… [{more:,} more characters]" if more > 0 else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
