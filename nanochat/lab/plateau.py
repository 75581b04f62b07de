"""The runbook's plateau: two full cycles in a row, each with less than 2 % of robust improvement, and nothing promoted across depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.common import read_json
from nanochat.lab.cycle import Cycle
from nanochat.lab.decisions import kept
from nanochat.lab.gates import LEAST_GAIN, PROMOTE
from nanochat.lab.measurements import hashes, members

CYCLES = 2
# What makes a cycle full: theory, data and shape have each been swept and decided. Phase 4 is for after them.
PHASES = {"1 theory": ("B", "C", "D"), "2 data and horizon": ("E",), "3 shape": ("F",)}


@dataclass(frozen=True)
class State:
    """A cycle as the plateau sees it."""

    name: str
    missing: tuple[str, ...]  # phases that are not done; a full cycle has none
    improvement: float  # the largest gain that passed all gates, as a share of the time
    held: tuple[str, ...]  # candidates whose gain held across depths

    @property
    def flat(self) -> bool:
        """Whether it found nothing to speak of."""
        return not self.missing and self.improvement < LEAST_GAIN and not self.held


def look(cycle: Cycle) -> State:
    """Reads the decisions of a cycle."""
    decisions = kept(cycle)
    path = cycle.folder / "miniseries.json"
    series: dict[str, Any] = read_json(path) if path.exists() else {}
    decided = {record["candidate"].partition("/")[0] for record in decisions}
    missing = [phase for phase, sweeps in PHASES.items() if not all(s in decided and members(cycle, s) for s in sweeps)]
    promoted = [record for record in decisions if record["verdict"] == PROMOTE]
    undecided = [r["candidate"] for r in promoted if r["config_hash"] not in series]
    if undecided:
        missing.append("5 miniseries of " + ", ".join(undecided))
    names = {config: name for name, config in hashes(cycle).items()}
    held = tuple(names.get(config, config) for config, found in series.items() if found["passed"])
    return State(cycle.name, tuple(missing), max((r["gain"] or 0.0 for r in promoted), default=0.0), held)


def plateau(states: Sequence[State]) -> tuple[bool, list[str]]:
    """Whether the last two full cycles are flat, with a line about each cycle and the conclusion."""
    lines = []
    for state in states:
        what = f"improvement {state.improvement:.1%}" + (f", held across depths: {', '.join(state.held)}" if state.held else "")
        lines.append(f"{state.name}: " + (f"not full, without {'; '.join(state.missing)}; {what}" if state.missing else f"full; {what}"))
    full = [state for state in states if not state.missing]
    last = full[-CYCLES:]
    reached = len(last) == CYCLES and all(state.flat for state in last)
    if len(full) < CYCLES:
        lines.append(f"no plateau: {len(full)} of {CYCLES} full cycles")
    elif reached:
        lines.append(f"plateau: the last {CYCLES} full cycles each improved by less than {LEAST_GAIN:.0%} and promoted nothing")
    else:
        lines.append(f"no plateau: {', '.join(state.name for state in last if not state.flat)} improved")
    return reached, lines
