"""Budget of a session's Working Context, and figures of its focus."""

from __future__ import annotations

from dataclasses import dataclass

from mc.config import SessionConfig
from mc.layout.layout import Geometry
from mc.memory_model import MemoryModel


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


def session_budget(memory: MemoryModel, config: SessionConfig) -> Budget:
    """Budget of sessions of `memory`. Raises `ValueError` if `config` leaves too little for a long history."""
    plan, geometry, interval = memory.plan, memory.config.geometry, config.mc_infer_refocus_interval
    least = least_entries(geometry, config.mc_session_lod, plan.recent) + interval
    most = config.allocator.allocator_soft_max_length
    if 0 < most < least:
        raise ValueError(
            f"allocator_soft_max_length is {most}; {config.mc_session_lod} levels (mc_session_lod) of block_size {geometry.block_size} "
            f"and {plan.recent} recent tokens, refocused every {interval} (mc_infer_refocus_interval), take up to {least} entries"
        )
    return Budget(most or max(plan.final_width, least + 2 * geometry.block_size), interval, plan.recent)


def least_entries(geometry: Geometry, levels: int, recent: int) -> int:
    """The most entries that a history of up to K^(levels+1) tokens takes at its coarsest."""
    K = geometry.block_size
    return recent + K - 1 + geometry.slots * ((levels - 1) * (K - 1) + K)


def longest_history(budget: Budget, geometry: Geometry, levels: int) -> int:
    """The longest history, in tokens, that is guaranteed to fit `budget` at its coarsest."""
    K = geometry.block_size
    top = (budget.target - budget.recent - K + 1) // geometry.slots - (levels - 1) * (K - 1)  # nodes of the highest level
    return top * geometry.span(levels)
