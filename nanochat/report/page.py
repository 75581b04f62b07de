"""The page that a report is while it is composed, and how its figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat import markdown
from nanochat.eval.chat_eval import Z

LONGEST_SAMPLE = 2_000  # characters that are shown
VAGUE = 0.5  # standard error of a recovery that says nothing
LAYOUT = "layout"  # the language of fences whose lines are never wrapped


@dataclass
class Page:
    """Blocks of Markdown, and the PNG files that they show by name."""

    blocks: list[str] = field(default_factory=list)
    figures: dict[str, bytes] = field(default_factory=dict)

    def add(self, *blocks: str) -> None:
        """Adds blocks at the end."""
        self.blocks += blocks

    def figure(self, name: str, caption: str, png: bytes | None) -> bool:
        """Adds a figure; whether there was anything to show."""
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
    """A figure with its 95 % interval, of its standard error where that is known."""
    if not _is_number(value):
        return markdown.number(value)
    shown = f"{round(value, 4) + 0.0:.4f}"  # + 0.0: no minus before a zero
    return f"{shown} ± {Z * error:.4f}" if _is_number(error) and error else shown


def recovery(value: Any, error: Any) -> str:
    """A share of what the far context gives, as `plus_minus`; a dash where it gives too little for a share to mean anything."""
    return "–" if _is_number(error) and error > VAGUE else plus_minus(value, error)


def share(row: Mapping[str, Any]) -> str:
    """The accuracy of a task with its 95 % interval, in percent."""
    value, low, high = (row.get(name) for name in ("accuracy", "low", "high"))
    if not all(map(_is_number, (value, low, high))):
        return markdown.number(value)
    return f"{100 * value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def centered(rows: list[Mapping[str, Any]]) -> float | None:
    """Half of the 95 % interval of ChatCORE, the mean of the tasks' centered accuracies, which are independent; None of none."""
    halves = [(row["high"] - row["low"]) / 2 / (1 - row["chance"]) for row in rows if {"high", "low", "chance"} <= row.keys()]
    return sum(half**2 for half in halves) ** 0.5 / len(halves) if halves else None


def sample(prompt: str, text: str) -> str:
    """Prompt, arrow, continuation, as the text they are; what is very long is cut."""
    continuation = _cut(text.removeprefix(prompt))
    space = "" if continuation[:1].isspace() else " "
    return markdown.fenced(f"{_cut(prompt)} ⟶{space}{continuation}")


def _cut(text: str) -> str:
    more = len(text) - LONGEST_SAMPLE
    return f"{text[:LONGEST_SAMPLE]}… [{more:,} more characters]" if more > 0 else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
