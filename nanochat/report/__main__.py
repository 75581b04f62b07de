"""The report and the check before a run is handed over: `python -m nanochat.report generate | check | reset`.

Each stage leaves a section as JSON (`section`); `generate` composes them into one Markdown file with figures beside it, and into one
HTML file that holds everything; `check` says whether all is there and as it should be.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.flags import flag, parse, run
from nanochat.report.sections import MEMORY, collect, section, sections_folder

__all__ = ["MEMORY", "generate", "main", "reset", "section"]


@dataclass
class Report:
    """Compose the report from what the stages left (generate, the default), check it for hand-over (check), or forget it (reset)."""

    out: str = flag("report/report.md", "where generate writes the report; the figures and the HTML file go beside it")


def generate(out: Path) -> list[str]:
    """Writes the report to `out`, its figures and report.html beside it; returns the stages of the recipe that are missing.

    Raises `UserError` where a section is broken or `out` cannot be written.
    """
    from nanochat.report.compose import compose, write  # it needs torch, which a stage that only leaves a section may do without

    collected = collect()
    write(compose(collected), out)
    return collected.missing


def reset() -> int:
    """Removes the recorded sections; returns how many there were. The runner's stamps stay."""
    paths = list(sections_folder().glob("*.json"))
    for path in paths:
        path.unlink()
    return len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "generate"
    if command not in ("generate", "check", "reset"):
        print(f"error: {command} is not a command; there are generate, check and reset", file=sys.stderr)
        return 2
    if command == "check":
        from nanochat.report.check import Check, check

        return check(parse(Check, arguments))
    config = parse(Report, arguments)
    if command == "reset":
        print(f"report: {reset()} sections removed")
        return 0
    out = Path(config.out)
    missing = generate(out)
    print(f"report: {out} and {out.with_suffix('.html').name}" + (f" (missing: {', '.join(missing)})" if missing else ""))
    return 0


if __name__ == "__main__":
    run(main)
