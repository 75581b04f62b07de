"""Budget of a session's Working Context, and figures of its focus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FocusFigures:
    """Figures of a session's focus: share of blocks edited and of the budget in use at the last refocus; total refocuses and edits."""

    swap_rate: float = 0.0
    residency: float = 0.0
    refocuses: int = 0
    edits: int = 0


@dataclass(frozen=True)
class Budget:
    """Entries of a session's Working Context: `most` at any time and `target` after a refocus; at least `recent` tokens are raw."""

    most: int
    interval: int
    recent: int

    @property
    def target(self) -> int:
        """Entries after a refocus, which leave room for the tokens up to the next one."""
        return self.most - self.interval
