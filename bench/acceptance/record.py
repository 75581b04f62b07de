"""Findings of a part: checks with value, bound and verdict, and tables, written line by line so that none is lost when the part is cut."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["passed", "failed", "reported", "skipped"]
Value = float | int | str | bool | None


@dataclass(frozen=True)
class Check:
    """A finding. `bound` is what was expected, empty if nobody knows yet: such a value is reported and cannot fail."""

    name: str
    value: Value
    bound: str
    verdict: Verdict
    note: str = ""  # unit, circumstances, or why it was skipped


class Record:
    """Appends the findings of parts to the file `path`, a JSON value per line."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (open for the life of the process)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time in which the part `name` runs. One that raises is not ended."""
        begin = time.monotonic()
        self._write({"begin": name})
        yield
        self._write({"end": name, "seconds": time.monotonic() - begin})

    def at_most(self, name: str, value: float, bound: float, note: str = "") -> None:
        """Passes if `value` ≤ `bound`; NaN fails."""
        self._check(name, value, f"≤ {shown(bound)}", value <= bound, note)

    def at_least(self, name: str, value: float, bound: float, note: str = "") -> None:
        """Passes if `value` ≥ `bound`; NaN fails."""
        self._check(name, value, f"≥ {shown(bound)}", value >= bound, note)

    def between(self, name: str, value: float, low: float, high: float, note: str = "") -> None:
        """Passes if `value` lies in `low` … `high`; NaN fails."""
        self._check(name, value, f"{shown(low)} … {shown(high)}", low <= value <= high, note)

    def equal(self, name: str, value: Value, expected: Value, note: str = "") -> None:
        """Passes if `value` is `expected`."""
        self._check(name, value, shown(expected), value == expected, note)

    def report(self, name: str, value: Value, note: str = "") -> None:
        """A value whose bound nobody knows."""
        self._write({"check": asdict(Check(name, plain(value), "", "reported", note))})

    def skip(self, name: str, why: str) -> None:
        """A check that cannot be made here."""
        self._write({"check": asdict(Check(name, None, "", "skipped", why))})

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people."""
        self._write({"table": {"title": title, "header": list(header), "rows": [list(row) for row in rows]}})

    def _check(self, name: str, value: Value, bound: str, passed: bool, note: str) -> None:
        self._write({"check": asdict(Check(name, plain(value), bound, "passed" if passed else "failed", note))})

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Value) -> Value:
    """`value` for JSON, which has no NaN and no infinities."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Value) -> str:
    """`value` for a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value
