"""Processes of an acceptance run: each part runs under its time limit, and a part that breaks its process costs no other part."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.acceptance.parts import Part
from bench.acceptance.record import Check
from bench.acceptance.results import PartResult
from nanochat.common import ROOT, source_digest

LOG, ERRORS = "log.txt", "errors.txt"
POLL_SECONDS = 0.05
STOP_SECONDS = 10  # from SIGTERM to SIGKILL
TOY_PATIENCE = 5  # a toy may run on a small and busy machine: its limits are so many times longer


@dataclass
class Supervisor:
    """Runs parts, each in a process of its own; at toy size in one process, so that torch is imported once.

    `out` gets what the processes print, `work` their data. `deadline` is a time of `time.monotonic`.
    """

    toy: bool
    out: Path
    work: Path
    deadline: float

    def run(self, parts: Sequence[Part]) -> Iterator[PartResult]:
        """Yields the result of each part as it ends; parts for which no time is left are skipped."""
        waiting, source = list(parts), source_digest()
        while waiting:
            if time.monotonic() >= self.deadline:
                yield PartResult(waiting[0].name, waiting[0].what, reason="no time left; --resume runs it")
                waiting.pop(0)
                continue
            for result in self._in_one_process(waiting if self.toy else waiting[:1]):
                result.source = source
                waiting = waiting[1:]
                yield result

    def _in_one_process(self, parts: Sequence[Part]) -> Iterator[PartResult]:
        """Results of `parts` up to the first one that breaks the process."""
        progress = self.work / "progress.jsonl"
        progress.write_bytes(b"")
        names = ",".join(f"{part.name}={part.run}" for part in parts)
        command = [sys.executable, "-m", "bench.acceptance.worker", names, str(progress), str(self.work), str(int(self.toy))]
        with open(self.out / LOG, "ab") as log, open(self.out / ERRORS, "ab") as errors:
            worker = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=log, stderr=errors, start_new_session=True)
            try:
                yield from self._follow(worker, parts, progress, errors.tell())
            finally:
                stop(worker)

    def _follow(self, worker: subprocess.Popen, parts: Sequence[Part], progress: Path, errors_before: int) -> Iterator[PartResult]:
        read, begin = 0, time.monotonic()
        for part in parts:
            result, done, broken = PartResult(part.name, part.what), False, ""
            limit = min(begin + part.limit_seconds * (TOY_PATIENCE if self.toy else 1), self.deadline)
            while not broken and not (done and part is not parts[-1]):
                code = worker.poll()  # before reading: what an ended process wrote is all there
                while not done and (line := _line(progress, read)):
                    read += len(line)
                    done = _take(json.loads(line), result)
                if code is not None:
                    if not done or (code and part is parts[-1]):  # a part that has ended did not break what came after it
                        broken = f"its process ended with {code}: {_last_line(self.out / ERRORS, errors_before)}"
                    break
                if time.monotonic() > limit:
                    broken = f"cut after {time.monotonic() - begin:.0f} s, {'its limit' if limit < self.deadline else 'by --time-limit'}"
                elif not done or part is parts[-1]:
                    time.sleep(POLL_SECONDS)
            yield result.ended(time.monotonic() - begin, broken)
            if broken:
                return
            begin = time.monotonic()

    def _environment(self) -> dict[str, str]:
        """All parts have one base folder, so that what one has compiled the next ones find."""
        base = self.work / "base"
        environment = {name: value for name, value in os.environ.items() if name != "NANOCHAT_DTYPE"}
        environment |= {"NANOCHAT_BASE_DIR": str(base), "TORCHINDUCTOR_CACHE_DIR": str(base / "compile_cache"), "WANDB_MODE": "disabled"}
        return environment | ({"NANOCHAT_DTYPE": "fp32", "OMP_NUM_THREADS": "1"} if self.toy else {})


def stop(worker: subprocess.Popen) -> None:
    """Ends a worker: SIGTERM, at which it ends the processes that it has started, then SIGKILL to its group."""
    if worker.poll() is None:
        worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _take(line: dict, result: PartResult) -> bool:
    """Adds a line of a `Record` to the result; True if it is the last one of the part."""
    if "check" in line:
        result.checks.append(Check(**line["check"]))
    elif "table" in line:
        result.tables.append(line["table"])
    return "end" in line


def _line(path: Path, start: int) -> bytes:
    """The whole line at byte `start`; empty if it is not there yet."""
    with open(path, "rb") as file:
        file.seek(start)
        line = file.readline()
    return line if line.endswith(b"\n") else b""


def _last_line(path: Path, start: int) -> str:
    """The last line that was appended to `path` after byte `start`, if any."""
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed no error")
