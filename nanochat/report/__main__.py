"""Command of the report and of the release check: `python -m nanochat.report generate | check | reset`.

Each stage leaves a section as JSON (`sections.section`). `generate` composes them into a Markdown file with figures, and into one
self-contained HTML file; `check` verifies that everything is there and valid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.flags import flag, parse, run
from nanochat.report.sections import sections_folder


@dataclass
class Report:
    """Compose the report from the sections of the stages (generate, the default), check a run for hand-over (check), or reset."""

    out: str = flag("report/report.md", "file of the report; its figures and the HTML file go next to it")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "generate"
    if command not in ("generate", "check", "reset"):
        print(f"error: invalid command {command}: expected generate, check or reset", file=sys.stderr)
        return 2
    if command == "check":
        from nanochat.report.check import Check, check

        return check(parse(Check, arguments))
    out = Path(parse(Report, arguments).out)
    if command == "reset":  # the runner's stamps stay
        paths = list(sections_folder().glob("*.json"))
        for path in paths:
            path.unlink()
        print(f"report: {len(paths)} sections removed")
        return 0
    from nanochat.report.compose import generate  # imports torch, which reset does not need

    missing = generate(out)
    print(f"report: {out} and {out.with_suffix('.html').name}" + (f" (missing: {', '.join(missing)})" if missing else ""))
    return 0


if __name__ == "__main__":
    run(main)
