"""Runs experiments: one process of base_train each, a few at a time, each in a folder of its own, resumable at any point.

A run's folder is its process's base folder, with links to tokenizer, data and token shards: the user's own runs and reports are
not touched. A training process inherits and holds the lock of its folder, so a run survives a lab that is killed, and the next
lab waits for it instead of training it twice.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from nanochat.common import ROOT, UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.lab.curve import read_summary
from nanochat.lab.cycle import Cycle, Experiment, Say
from nanochat.lab.profiles import argv
from nanochat.lab.results import key
from nanochat.lab.run_outcome import OK, OUTCOME, TAG, bad_batches, classify, reached_end, records, row
from nanochat.lab.surroundings import threads
from nanochat.model.gpt import GPTConfig

POLL_SECONDS = 0.1
SHARED = ("tokenizer", "data", "tokens")  # folders linked into those of runs
PROBE_STEPS = 40  # of a run that only measures its pace


@dataclass(frozen=True)
class LabRun:
    """Experiment at a seed, to be trained by one process."""

    experiment: Experiment
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment.name} seed {self.seed}"


class Stopped(Exception):
    """SIGINT or SIGTERM arrived, and the runs have saved themselves. Carries the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class _Child:
    """Run in progress: a process of ours, or (`process` is None) one left by an earlier lab."""

    run: LabRun
    folder: Path
    lock: int
    began: float
    process: subprocess.Popen | None


def run_all(cycle: Cycle, runs: Sequence[LabRun], say: Say, with_rows: bool = True) -> None:
    """Finishes every run, `cycle.jobs` at a time, and appends its row to results.csv, in the order of `runs`.

    Runs with an outcome, which may be a crash or a divergence, are not repeated. Runs of this cycle left by an earlier lab count as
    jobs too, as they share the machine. Raises `Stopped`.
    """
    waiting = [run for run in runs if not outcome_file(cycle, run).exists()]
    waiting.sort(key=lambda run: not _is_training(cycle.run_folder(run.experiment, run.seed)))  # those in progress first
    say(f"{len(runs)} runs, {len(runs) - len(waiting)} done before, {cycle.jobs} at a time")
    children: list[_Child] = []
    if others := _others(cycle, waiting, children):
        say(f"an earlier lab has left {', '.join(others)} in progress; no more than {cycle.jobs} will run at a time")
    with _signals() as stop:
        while waiting or children:
            while waiting and len(children) + len(_others(cycle, waiting, children)) < cycle.jobs and not stop.number:
                children.append(_start(cycle, waiting.pop(0), say))
            ended = [child for child in children if _has_ended(child, stop)]
            for child in ended:
                children.remove(child)
                _finish(cycle, child, say, stop, waiting)
                if with_rows:
                    add_rows(cycle, runs)
            if stop.number and not children:
                raise Stopped(128 + stop.number)
            if not ended:
                time.sleep(POLL_SECONDS)
    if with_rows:
        add_rows(cycle, runs)


def add_rows(cycle: Cycle, runs: Sequence[LabRun], threshold: float | None = None) -> None:
    """Appends the rows of finished runs in the order of `runs`, up to the first unfinished one.

    A run that two experiments share, such as a candidate of two sweeps, is trained once and has a row for each name.
    `threshold` replaces the cycle's.
    """
    there = {(line["experiment_name"], *key(line)): line["timestamp"] for line in cycle.results.rows()}
    for run in runs:
        if not outcome_file(cycle, run).exists():
            return
        name = (run.experiment.name, cycle.hash(run.experiment), run.seed)
        if there.get(name, "") < read_json(outcome_file(cycle, run))["finished"]:
            cycle.results.append(row(cycle, run.experiment, run.seed, threshold))


def outcome_file(cycle: Cycle, run: LabRun) -> Path:
    """Outcome of a run; exists once it has ended by itself."""
    return cycle.run_folder(run.experiment, run.seed) / OUTCOME


def forget_failures(cycle: Cycle, runs: Sequence[LabRun]) -> int:
    """Removes the runs that crashed or diverged, to be repeated; returns how many. Their rows stay, but later ones count."""
    failed = [run for run in runs if outcome_file(cycle, run).exists() and read_json(outcome_file(cycle, run))["status"] != OK]
    for run in failed:
        shutil.rmtree(cycle.run_folder(run.experiment, run.seed))
    return len(failed)


def command(flags: Mapping[str, Any], seed: int) -> list[str]:
    """Command of a run's process."""
    return [sys.executable, "-m", "scripts.base_train", f"--model-tag={TAG}", "--run=dummy", f"--seed={seed}", *argv(flags)]


def environment(folder: Path, jobs: int) -> dict[str, str]:
    """Environment of a process whose base folder is `folder`, which is created with links into the user's."""
    ensure_dir(folder)
    for name in SHARED:
        target = ensure_dir(base_dir() / name).resolve()
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target, target_is_directory=True)
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str((base_dir() / "compile_cache").resolve())
    return os.environ | {
        "NANOCHAT_BASE_DIR": str(folder.resolve()),
        "OMP_NUM_THREADS": str(threads(jobs)),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": compiled,
    }


def resolved_flags(cycle: Cycle, experiment: Experiment) -> dict[str, Any]:
    """Flags of base_train; the steps of a time budget follow from the pace of a short run, which is measured once."""
    if experiment.budget_seconds is None:
        return dict(experiment.flags)
    folder = cycle.folder / "probes" / cycle.hash(experiment)
    if not (folder / OUTCOME).exists():
        quiet = {"num_iterations": PROBE_STEPS, "log_every": 5, "eval_every": -1}
        code = train(cycle, folder, {**experiment.flags, **quiet}, resume="never")
        summary = read_summary(records(folder))
        if code or summary is None:
            raise UserError(f"the pace of {experiment.name} could not be measured; see {folder / 'output.txt'}")
        write_json(folder / OUTCOME, {"step_seconds": summary.step_ms / 1e3})
    step_seconds = read_json(folder / OUTCOME)["step_seconds"]
    return {**experiment.flags, "num_iterations": max(1, round(experiment.budget_seconds / step_seconds))}


def train(cycle: Cycle, folder: Path, flags: Mapping[str, Any], resume: str) -> int:
    """Trains in `folder` at the first seed, with the output in output.txt there, and returns the exit code."""
    with open(ensure_dir(folder) / "output.txt", "ab") as output:
        line = [*command(flags, cycle.seeds[0]), f"--resume={resume}"]
        done = subprocess.run(line, cwd=ROOT, env=environment(folder, cycle.jobs), stdout=output, stderr=output, check=False)
    return done.returncode


def scaling_parameters(cycle: Cycle, flags: Mapping[str, Any]) -> int:
    """Scaling parameters of the model that these flags of base_train make."""
    values = {**cycle.defaults, **flags, "vocab_size": cycle.surroundings.vocab_size}
    return GPTConfig(**{field.name: values[field.name] for field in dataclasses.fields(GPTConfig)}).scaling_parameters


def _others(cycle: Cycle, waiting: Sequence[LabRun], children: Sequence[_Child]) -> list[str]:
    """Names of the run folders with training processes that are neither ours nor waiting to be."""
    ours = {child.folder for child in children} | {cycle.run_folder(run.experiment, run.seed) for run in waiting}
    return [folder.name for folder in sorted((cycle.folder / "runs").glob("*")) if folder not in ours and _is_training(folder)]


def _is_training(folder: Path) -> bool:
    """True if a process holds the lock of a run's folder."""
    try:
        lock = os.open(folder / ".lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _start(cycle: Cycle, run: LabRun, say: Say) -> _Child:
    folder = ensure_dir(cycle.run_folder(run.experiment, run.seed))
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{run}: a process that an earlier lab started is still training it; waiting for it")
        return _Child(run, folder, lock, time.monotonic(), None)
    if reached_end(folder):  # trained by a process whose lab was killed
        return _Child(run, folder, lock, time.monotonic(), None)
    surroundings = environment(folder, cycle.jobs)
    flags = resolved_flags(cycle, run.experiment)
    with open(folder / "output.txt", "ab") as output:
        # A session of its own: Ctrl-C reaches the lab alone, which signals its runs to save themselves.
        process = subprocess.Popen(
            command(flags, run.seed), cwd=ROOT, env=surroundings, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
    say(f"{run}: started")
    return _Child(run, folder, lock, time.monotonic(), process)


def _has_ended(child: _Child, stop: _Signals) -> bool:
    if child.process is not None:
        if stop.number and stop.passed_on.get(child.process.pid, 0) < min(stop.times, 2):
            stop.passed_on[child.process.pid] = min(stop.times, 2)
            child.process.send_signal(signal.SIGTERM if stop.times == 1 else signal.SIGKILL)
        return child.process.poll() is not None
    if stop.number:
        return True
    try:
        fcntl.flock(child.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _finish(cycle: Cycle, child: _Child, say: Say, stop: _Signals, waiting: list[LabRun]) -> None:
    """Writes the outcome of a run that has ended by itself; one that was stopped or left unfinished is to be continued."""
    code = None if child.process is None else child.process.returncode
    os.close(child.lock)
    complete = reached_end(child.folder)
    if not complete and (stop.number or child.process is None):
        if not stop.number:
            waiting.insert(0, child.run)
        return
    status, reason = classify(child.folder, code)
    flags = resolved_flags(cycle, child.run.experiment)
    write_json(
        child.folder / OUTCOME,
        {
            "experiment": child.run.experiment.name,
            "seed": child.run.seed,
            "flags": flags,
            "knobs": dict(child.run.experiment.knobs),
            "budget": child.run.experiment.budget,
            "status": status,
            "reason": reason,
            "exit_code": code,
            "bad_batches": bad_batches(child.folder),
            "process_seconds": time.monotonic() - child.began,
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "commit": cycle.surroundings.commit,
            "scaling_parameters": scaling_parameters(cycle, flags),
        },
    )
    shutil.rmtree(child.folder / "base_checkpoints", ignore_errors=True)
    say(f"{child.run}: {status}{f', {reason}' if reason else ''}")


class _Signals:
    """Counter of SIGINT and SIGTERM: the first one stops the runs, the second one kills them."""

    def __init__(self) -> None:
        self.number, self.times = 0, 0
        self.passed_on: dict[int, int] = {}  # process → signals sent to it

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.number, self.times = number, self.times + 1


@contextmanager
def _signals() -> Iterator[_Signals]:
    stop = _Signals()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
