"""Budget of a session's Working Context, and figures of how its focus moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FocusFigures:
    """Of the last refocus: the share of the Working Context's blocks that it edited, and the share of the budget in use."""

    swap_rate: float = 0.0
    residency: float = 0.0
    refocuses: int = 0
    edits: int = 0


@dataclass(frozen=True)
class Budget:
    """Entries of a session's Working Context: `most` at any time, `target` behind a refocus, `recent` tokens of them raw at least."""

    most: int
    interval: int
    recent: int

    @property
    def target(self) -> int:
        """What a refocus leaves room for: the tokens up to the next one come on top."""
        return self.most - self.interval
