"""Results of an acceptance run: one JSON file and the same as Markdown, written anew after every part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.acceptance.parts import Part
from bench.acceptance.record import Check, shown
from nanochat.common import UserError, atomic_write, ensure_dir, read_json, write_json

FORMAT = 1
JSON_FILE, MARKDOWN_FILE = "results.json", "results.md"


@dataclass
class PartResult:
    """What came of a part. `status`: passed, failed (a check, or the process) or skipped (it did not run); `reason` says why."""

    name: str
    what: str
    status: str = "skipped"
    reason: str = ""
    seconds: float = 0.0
    broken: bool = False  # the process did not come to its end
    source: str = ""  # digest of the code that ran
    checks: list[Check] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, seconds: float, broken: str = "") -> PartResult:
        """Sets the status by the checks: a part that has made none fails too. `broken` says why the process did not come to its end.
        Returns self."""
        reasons = [broken] if broken else []
        if not broken and all(check.verdict == "skipped" for check in self.checks):
            reasons.append("it has checked nothing")
        if failed := [check.name for check in self.checks if check.verdict == "failed"]:
            reasons.append(f"failed: {', '.join(failed)}")
        self.seconds, self.broken, self.status, self.reason = seconds, bool(broken), "failed" if reasons else "passed", "; ".join(reasons)
        return self

    def lines(self) -> list[str]:
        """For the terminal."""
        reason = f"  {self.reason}" if self.reason else ""
        checks = [
            f"    {c.verdict:8s}  {c.name}: {shown(c.value)}{f' (expected {c.bound})' if c.bound else ''} {c.note}" for c in self.checks
        ]
        return [f"{self.name:14s} {self.status:8s} {self.seconds:6.1f} s{reason}", *(check.rstrip() for check in checks)]


@dataclass
class Results:
    """Results so far, in `folder`; `toy` says of which run they are."""

    folder: Path
    toy: bool
    parts: dict[str, PartResult] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, toy: bool, resume: bool) -> Results:
        """Earlier results if they are to be resumed, else none. Raises `UserError` if those are of another run."""
        path, results = ensure_dir(folder) / JSON_FILE, cls(folder, toy)
        if not resume or not path.exists():
            return results
        saved = read_json(path)
        if saved.get("format") != FORMAT or saved.get("toy") != toy:
            raise UserError(f"{path} is of another kind of run (toy: {saved.get('toy')}); give another --out, or leave --resume out")
        for part in saved["parts"]:
            checks = [Check(**check) for check in part.pop("checks")]
            results.parts[part["name"]] = PartResult(**part, checks=checks)
        return results

    def add(self, result: PartResult) -> None:
        """Adds the result of a part, in place of an earlier one, and writes the files."""
        self.parts[result.name] = result
        content = {"format": FORMAT, "toy": self.toy, "parts": [asdict(part) for part in self.parts.values()]}
        write_json(self.folder / JSON_FILE, content)
        atomic_write(self.folder / MARKDOWN_FILE, self.markdown())

    def passed(self, parts: Iterable[Part]) -> bool:
        """Whether all of `parts` have run and passed."""
        return all(part.name in self.parts and self.parts[part.name].status == "passed" for part in parts)

    def markdown(self) -> str:
        """The results for people."""
        parts = self.parts.values()
        out = ["# GPU acceptance" + " (toy size, on a CPU)" * self.toy, ""]
        out += _table(["part", "result", "s", "what", "reason"], [[p.name, p.status, f"{p.seconds:.1f}", p.what, p.reason] for p in parts])
        for part in parts:
            if part.checks:
                rows = [[c.name, shown(c.value), c.bound, c.verdict, c.note] for c in part.checks]
                out += ["", f"## {part.name}", "", *_table(["check", "value", "expected", "verdict", "note"], rows)]
            for table in part.tables:
                out += ["", f"### {table['title']}", "", *_table(table["header"], table["rows"])]
        return "\n".join(out) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]
