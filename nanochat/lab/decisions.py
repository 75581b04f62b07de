"""Decisions: made from a cycle's measurements, kept beside them, and told to people in the log."""

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
from nanochat.lab.gates import OPTIONAL, PROMOTE, Gate, Judgement, Measured, judge
from nanochat.lab.measurements import hashes, measure, members
from nanochat.lab.outcome import OK, OUTCOME
from nanochat.lab.resume_check import check_resume

_ENTRY = re.compile(r"^## \d{4}-\d{2}-\d{2}", re.MULTILINE)


@dataclass(frozen=True)
class Decision:
    """A judgement on a candidate with what it rests on."""

    candidate: str
    day: date
    judgement: Judgement
    runs: dict[str, list[Measured]]  # of the baseline and the whole sweep

    def record(self, cycle: Cycle) -> dict[str, Any]:
        """Plain JSON, for `plateau` and `report`."""
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


def decide(cycle: Cycle, candidate: str, day: date) -> Decision:
    """Judges a candidate by all gates. Tests its checkpoints first, which takes two short trainings. Raises `UserError`."""
    sweep = candidate.partition("/")[0]
    family = members(cycle, sweep)
    if candidate not in family:
        raise UserError(f"there is no candidate {candidate!r} in {cycle.results.path}; it has {', '.join(hashes(cycle)) or 'no rows'}")
    runs = {name: measure(cycle, name, cycle.seeds) for name in (BASELINE, candidate)}
    for name in family:  # those that are not through yet say nothing about the noise
        if name != candidate and all((hashes(cycle)[name], seed) in cycle.results.newest() for seed in cycle.seeds):
            runs[name] = measure(cycle, name, cycle.seeds)
    config = hashes(cycle)[candidate]
    flags = read_json(cycle.folder / "runs" / f"{config}-s{cycle.seeds[0]}" / OUTCOME)["flags"]
    healthy = all(run.status == OK for run in runs[candidate])
    resume = check_resume(cycle, config, flags) if healthy else Gate("checkpoint and resume", True, "not tested, as runs failed")
    judgement = _across_depths(cycle, candidate, judge(runs, candidate, BASELINE, resume, len(family)))
    return Decision(candidate, day, judgement, runs)


def keep(cycle: Cycle, decision: Decision) -> None:
    """Writes the decision into the cycle's folder; a later one on the same candidate replaces it."""
    name = re.sub(r"[^\w.=,-]", "_", decision.candidate)
    write_json(ensure_dir(cycle.folder / "decisions") / f"{name}.json", decision.record(cycle))


def kept(cycle: Cycle) -> list[dict[str, Any]]:
    """The decisions so far, by date and name."""
    found = [read_json(path) for path in (cycle.folder / "decisions").glob("*.json")]
    return sorted(found, key=lambda record: (record["date"], record["candidate"]))


def entry(cycle: Cycle, decision: Decision) -> str:
    """The decision as an entry of the log: verdict, why, table, gates."""
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
    """Means over the seeds of each experiment, the baseline first."""
    header = ("", "seconds to target", "saved", "seconds of the run", "final training loss", "validation bpb", "status")
    base = _mean([run.seconds_to_target for run in runs[BASELINE]])
    rows = []
    for name, found in runs.items():
        seconds = _mean([run.seconds_to_target for run in found])
        gain = f"{1 - seconds / base:+.1%}" if name != BASELINE and seconds is not None and base is not None else ""
        guessed = " (extrapolated)" if any(run.uncertainty for run in found) else ""
        states = sorted({run.status for run in found})
        rows.append(
            (
                name,
                "–" if seconds is None else f"{seconds:.1f}{guessed}",
                gain,
                _show(_mean([run.steady_seconds for run in found]), 1),
                _show(_mean([run.final_loss for run in found]), 4),
                _show(_mean([run.min_bpb for run in found]), 4),
                ", ".join(states),
            )
        )
    return markdown.table(header, rows, right=(1, 2, 3, 4, 5))


def write_log(path: Path, text: str) -> None:
    """Puts an entry into the log before the newest dated one; a log without entries gets it at its end. Raises `UserError`."""
    try:
        log = path.read_text(encoding="utf-8") if path.exists() else "# Log\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    first = _ENTRY.search(log)
    before, after = (log.rstrip("\n") + "\n\n", "") if first is None else (log[: first.start()], "\n" + log[first.start() :])
    atomic_write(path, before + text + after)


def _across_depths(cycle: Cycle, candidate: str, judgement: Judgement) -> Judgement:
    """A candidate whose gain does not hold across depths stays optional, whatever it does at one."""
    path = cycle.folder / "miniseries.json"
    held = read_json(path).get(hashes(cycle)[candidate]) if path.exists() else None
    if held is None or judgement.verdict != PROMOTE:
        return judgement
    gate = Gate("across depths", held["passed"], held["why"])
    verdict = PROMOTE if held["passed"] else OPTIONAL
    why = judgement.why if held["passed"] else f"the miniseries did not hold: {held['why']}"
    return Judgement(verdict, why, (*judgement.gates, gate), judgement.gain, judgement.pace)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None and value == value]
    return sum(there) / len(there) if there and len(there) == len(values) else None


def _show(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
