"""Decisions on candidates: made from a cycle's measurements, saved with them, entered into the log; and the plateau they reach."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.common import UserError, atomic_write, ensure_dir, read_json, write_json
from nanochat.lab.cycle import BASELINE, Cycle
from nanochat.lab.gates import LEAST_GAIN, OPTIONAL, PROMOTE, Gate, GateJudgement, Measured, judge
from nanochat.lab.measurements import hashes, measure, members
from nanochat.lab.resume_check import NAME, check_resume
from nanochat.lab.run_outcome import OK, OUTCOME

CYCLES = 2  # full cycles without improvement that make a plateau
# A cycle is full once the sweeps of theory, data and shape have been decided. Phase 4 comes after them.
PHASES = {"1 theory": ("B", "C", "D"), "2 data and horizon": ("E",), "3 shape": ("F",)}
_ENTRY = re.compile(r"^## \d{4}-\d{2}-\d{2}", re.MULTILINE)


@dataclass(frozen=True)
class Decision:
    """Judgement on a candidate with the runs it is based on."""

    candidate: str
    day: date
    judgement: GateJudgement
    runs: dict[str, list[Measured]]  # of the baseline and the whole sweep

    def record(self, cycle: Cycle) -> dict[str, Any]:
        """The decision as JSON, for `plateau` and `report`."""
        judged = self.judgement
        return {
            "candidate": self.candidate,
            "config_hash": hashes(cycle)[self.candidate],
            "date": self.day.isoformat(),
            "verdict": judged.verdict,
            "why": judged.why,
            "gain": judged.gain_share,
            "gates": [vars(gate) for gate in judged.gates],
        }


@dataclass(frozen=True)
class CycleState:
    """State of a cycle for the plateau."""

    name: str
    missing: tuple[str, ...]  # unfinished phases; a full cycle has none
    improvement: float  # the largest gain that passed all gates, as a share of the time
    held: tuple[str, ...]  # candidates whose gain held across depths

    @property
    def flat(self) -> bool:
        """True if the cycle is full and found no relevant gain."""
        return not self.missing and self.improvement < LEAST_GAIN and not self.held


def decide(cycle: Cycle, candidate: str, day: date) -> Decision:
    """Judges a candidate by all gates, after a test of its checkpoints that takes two short trainings. Raises `UserError`."""
    sweep = candidate.partition("/")[0]
    family = members(cycle, sweep)
    if candidate not in family:
        raise UserError(f"there is no candidate {candidate!r} in {cycle.results.path}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    runs = {name: measure(cycle, name, cycle.seeds) for name in (BASELINE, candidate)}
    for name in family:  # unfinished ones say nothing about the noise
        if name != candidate and all((hashes(cycle)[name], seed) in cycle.results.newest() for seed in cycle.seeds):
            runs[name] = measure(cycle, name, cycle.seeds)
    config = hashes(cycle)[candidate]
    flags = read_json(cycle.run_folder(config, cycle.seeds[0]) / OUTCOME)["flags"]
    healthy = all(run.status == OK for run in runs[candidate])
    resume = check_resume(cycle, config, flags) if healthy else Gate(NAME, True, "not tested, as runs failed")
    judgement = _across_depths(cycle, candidate, judge(runs, candidate, BASELINE, resume, len(family)))
    return Decision(candidate, day, judgement, runs)


def keep(cycle: Cycle, decision: Decision) -> None:
    """Saves the decision in the cycle's folder, replacing an earlier one on the same candidate."""
    name = re.sub(r"[^\w.=,-]", "_", decision.candidate)
    write_json(ensure_dir(cycle.folder / "decisions") / f"{name}.json", decision.record(cycle))


def kept(cycle: Cycle) -> list[dict[str, Any]]:
    """Saved decisions, by date and name."""
    found = [read_json(path) for path in (cycle.folder / "decisions").glob("*.json")]
    return sorted(found, key=lambda record: (record["date"], record["candidate"]))


def entry(cycle: Cycle, decision: Decision) -> str:
    """The decision as an entry of the log: verdict, reason, table, gates."""
    judged = decision.judgement
    name, here = markdown.escape(decision.candidate), cycle.surroundings
    head = (
        f"Cycle {markdown.escape(cycle.name)} (profile {markdown.escape(cycle.profile.name)}, seeds {', '.join(map(str, cycle.seeds))}; "
        f"{markdown.escape(here.hardware)}; commit {here.commit or 'unknown'}): target {cycle.metric} {cycle.require_threshold():.4f}, "
        "times at each run's median pace."
    )
    blocks = [
        f"## {decision.day.isoformat()} · Lab: {name}: {judged.verdict}",
        f"**{judged.verdict.capitalize()}**: {judged.why}.",
        head,
        table(decision.runs),
        "\n".join(f"- {gate.name}: {'passed' if gate.passed else 'not passed'}; {gate.found}" for gate in judged.gates),
    ]
    return "\n\n".join(blocks) + "\n"


def table(runs: dict[str, list[Measured]]) -> str:
    """Table of means over the seeds of each experiment, the baseline first."""
    header = ("", "seconds to target", "saved", "seconds of the run", "final training loss", "validation bpb", "status")
    base = _mean(runs[BASELINE], "seconds_to_target")
    rows = []
    for name, found in runs.items():
        seconds = _mean(found, "seconds_to_target")
        gain = f"{1 - seconds / base:+.1%}" if name != BASELINE and seconds is not None and base is not None else ""
        guessed = " (extrapolated)" if seconds is not None and any(run.uncertainty for run in found) else ""
        others = (("steady_seconds", 1), ("final_loss", 4), ("min_bpb", 4))
        shown = [_show(_mean(found, figure), digits) for figure, digits in others]
        rows.append((name, _show(seconds, 1) + guessed, gain, *shown, ", ".join(sorted({run.status for run in found}))))
    return markdown.table(header, rows, right=(1, 2, 3, 4, 5))


def write_log(path: Path, text: str) -> None:
    """Inserts an entry into the log before the newest dated one, or appends it to a log without entries. Raises `UserError`."""
    try:
        log = path.read_text(encoding="utf-8") if path.exists() else "# Log\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    first = _ENTRY.search(log)
    before, after = (log.rstrip("\n") + "\n\n", "") if first is None else (log[: first.start()], "\n" + log[first.start() :])
    atomic_write(path, before + text + after)


def cycle_state(cycle: Cycle) -> CycleState:
    """State of a cycle from its decisions."""
    decisions, series = kept(cycle), cycle.saved("miniseries")
    decided = {record["candidate"].partition("/")[0] for record in decisions}
    missing = [phase for phase, sweeps in PHASES.items() if not all(s in decided and members(cycle, s) for s in sweeps)]
    promoted = [record for record in decisions if record["verdict"] == PROMOTE]
    undecided = [r["candidate"] for r in promoted if r["config_hash"] not in series]
    if undecided:
        missing.append("5 miniseries of " + ", ".join(undecided))
    names = {config: name for name, config in hashes(cycle).items()}
    held = tuple(names.get(config, config) for config, found in series.items() if found["passed"])
    return CycleState(cycle.name, tuple(missing), max((r["gain"] or 0.0 for r in promoted), default=0.0), held)


def plateau(states: Sequence[CycleState]) -> tuple[bool, list[str]]:
    """True if the last two full cycles are flat, and a line about each cycle and the conclusion."""
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


def _across_depths(cycle: Cycle, candidate: str, judgement: GateJudgement) -> GateJudgement:
    """Keeps a candidate optional if its gain does not hold across depths."""
    held = cycle.saved("miniseries").get(hashes(cycle)[candidate])
    if held is None or judgement.verdict != PROMOTE:
        return judgement
    gate = Gate("across depths", held["passed"], held["why"])
    verdict = PROMOTE if held["passed"] else OPTIONAL
    why = judgement.why if held["passed"] else f"the miniseries did not hold: {held['why']}"
    return GateJudgement(verdict, why, (*judgement.gates, gate), judgement.gain, judgement.pace)


def _mean(runs: Sequence[Measured], figure: str) -> float | None:
    """Mean of a figure; None if a run lacks it."""
    values = [getattr(run, figure) for run in runs]
    there = [value for value in values if value is not None and value == value]
    return sum(there) / len(there) if there and len(there) == len(values) else None


def _show(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
