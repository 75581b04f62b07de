"""Acceptance run of a GPU: `python -m bench.gpu_acceptance`; at toy size on a CPU: `--toy`.

Each part runs in a process of its own under a time limit of its own. `results.json` and `results.md` are written after each part, so
that a run that is cut loses nothing; `--resume` runs what has not passed yet. The last line is JSON; `ok` and the exit code are the
verdict: 0 if all parts have passed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from bench.acceptance.parts import FIRST, PARTS, Part
from bench.acceptance.results import JSON_FILE, MARKDOWN_FILE, PartResult, Results
from bench.acceptance.supervisor import ERRORS, LOG, Supervisor
from nanochat import flags
from nanochat.common import base_dir, ensure_dir
from nanochat.flags import check, flag

NAMES = ", ".join(part.name for part in PARTS)


@dataclass
class GpuAcceptance:
    """Check training and inference on a GPU, part by part."""

    toy: bool = flag(False, "run every part at toy size on a CPU")
    parts: str = flag("", f"parts to run, separated by commas; empty = all: {NAMES}")
    skip: str = flag("", "parts to leave out, separated by commas")
    resume: bool = flag(False, "keep earlier results, and run only what has not passed")
    time_limit: int = flag(570, "end after this time; parts that have not run are skipped", unit="seconds")
    out: str = flag("", "folder of the results; empty = gpu_acceptance in the base folder")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "must be at least 1", "time_limit")
        known = {part.name for part in PARTS}
        for name in ("parts", "skip"):
            if unknown := set(_names(getattr(self, name))) - known:
                raise ValueError(f"invalid {name} {min(unknown)!r}: there is no such part; expected some of {NAMES}")
        if not self.chosen:
            raise ValueError(f"invalid skip {self.skip!r}: nothing is left to run; expected fewer parts")

    @property
    def chosen(self) -> list[Part]:
        """The parts to run, in their order."""
        wanted, skipped = _names(self.parts), _names(self.skip)
        return [part for part in PARTS if (not wanted or part.name in wanted) and part.name not in skipped]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(argv: list[str] | None = None) -> int:
    """Runs the parts, prints the findings of each, and returns 0 if all have passed."""
    config, begin = flags.parse(GpuAcceptance, argv), time.monotonic()
    folder = base_dir() / "gpu_acceptance"
    results = Results.open(Path(config.out) if config.out else folder, config.toy, config.resume)
    if not config.resume:
        for name in (LOG, ERRORS):
            (results.folder / name).unlink(missing_ok=True)
    work = ensure_dir(folder / ("toy" if config.toy else "work"))
    supervisor = Supervisor(config.toy, results.folder, work.resolve(), begin + config.time_limit)
    due = [part for part in config.chosen if not results.passed([part])]
    for part in config.chosen:
        if part not in due:
            print(f"{part.name:14s} passed earlier")
    for result in supervisor.run(due):
        take(results, result)
        if result.name == FIRST and result.broken:
            for part in due[1:]:
                take(results, PartResult(part.name, part.what, reason=f"{FIRST} did not end"))
            break
    ok, here = results.passed(config.chosen), [results.parts[part.name] for part in config.chosen]
    print(f"results: {results.folder / MARKDOWN_FILE}")
    statuses = {status: [part.name for part in here if part.status == status] for status in ("failed", "skipped")}
    summary = {"ok": ok, "passed": sum(part.status == "passed" for part in here), **statuses, "toy": config.toy}
    print(json.dumps({**summary, "results": str(results.folder / JSON_FILE), "seconds": round(time.monotonic() - begin, 1)}))
    return 0 if ok else 1


def take(results: Results, result: PartResult) -> None:
    """Writes and prints the result of a part."""
    results.add(result)
    print("\n".join(result.lines()), flush=True)


if __name__ == "__main__":
    flags.run(main)
