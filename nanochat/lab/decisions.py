"""Decisions: made from a cycle's measurements, kept beside them, and told to people in the log."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.common import ROOT, UserError, atomic_write, ensure_dir, read_json, write_json
from nanochat.lab.cycle import BASELINE, Cycle
from nanochat.lab.gates import LEAST_GAIN, OPTIONAL, PROMOTE, Gate, Judgement, Measured, judge
from nanochat.lab.measurements import hashes, measure, members
from nanochat.lab.profiles import HORIZON
from nanochat.lab.run_outcome import OK, OUTCOME, TAG
from nanochat.lab.runner import command, environment

_ENTRY = re.compile(r"^## \d{4}-\d{2}-\d{2}", re.MULTILINE)
CYCLES = 2
# What makes a cycle full: theory, data and shape have each been swept and decided. Phase 4 is for after them.
PHASES = {"1 theory": ("B", "C", "D"), "2 data and horizon": ("E",), "3 shape": ("F",)}
STEPS = 6
NAME = "checkpoint and resume"


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


def check_resume(cycle: Cycle, config: str, flags: Mapping[str, Any]) -> Gate:
    """Trains `STEPS` steps through and again from the checkpoint in the middle; passes where the tensors are equal, bit for bit.

    The answer is kept in the cycle's folder by the config hash. What was said is in output.txt beside it.
    """
    folder = cycle.folder / "resume" / config
    answer = folder / "answer.json"
    if not answer.exists():
        ensure_dir(folder)
        write_json(answer, {"differs": _trained_twice(cycle, folder, flags)})
    differs = read_json(answer)["differs"]
    return Gate(NAME, not differs, differs or "exact")


def _trained_twice(cycle: Cycle, folder: Path, flags: Mapping[str, Any]) -> str:
    """What differs between the two trainings; empty where nothing does."""
    short = {name: value for name, value in flags.items() if name not in HORIZON}
    short |= {"num_iterations": STEPS, "save_every": STEPS // 2, "keep_checkpoints": -1, "eval_every": -1, "log_every": 1}
    store = folder / "base_checkpoints" / TAG
    whole = folder / "whole"
    shutil.rmtree(store, ignore_errors=True)
    if code := _train(cycle, folder, short, "never"):
        return f"training {STEPS} steps ended with exit code {code}"
    last = f"step_{STEPS:07d}"
    shutil.rmtree(whole, ignore_errors=True)
    (store / last).rename(whole)
    if code := _train(cycle, folder, short, str(STEPS // 2)):
        return f"resuming at step {STEPS // 2} ended with exit code {code}"
    names = sorted(path.name for path in whole.glob("*.safetensors"))
    different = [name for name in names if (whole / name).read_bytes() != (store / last / name).read_bytes()]
    for done in (whole, folder / "base_checkpoints"):
        shutil.rmtree(done)
    return f"{', '.join(different)} differ after a resume at step {STEPS // 2}" if different else ""


def _train(cycle: Cycle, folder: Path, flags: dict[str, Any], resume: str) -> int:
    with open(folder / "output.txt", "ab") as output:
        line = [*command(flags, cycle.seeds[0]), f"--resume={resume}"]
        done = subprocess.run(line, cwd=ROOT, env=environment(folder, cycle.jobs), stdout=output, stderr=output, check=False)
    return done.returncode
