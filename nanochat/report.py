"""The report: each stage leaves a section as JSON, `generate` composes them into one Markdown file with figures.

`$NANOCHAT_BASE_DIR/report/<section>.json` holds the sections, `$NANOCHAT_BASE_DIR/stages/<stage>.json` the runner's stamps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.charts import chart_png, check_chart
from nanochat.common import UserError, atomic_write, base_dir, ensure_dir, read_json, write_json
from nanochat.environment import describe_environment, process_seconds
from nanochat.flags import flag, parse, run
from nanochat.metrics import redact_all, show_seconds
from nanochat.report_run import show_run

# Section → stage that writes it. A report without one of these says so, unless there is the one of a run with a memory; not
# every model is made to chat.
EXPECTED = {
    "tokenizer_training": "tok_train",
    "tokenizer_evaluation": "tok_eval",
    "base_training": "base_train",
    "base_evaluation": "base_eval",
}
MEMORY = "_mc"  # at the end of the names of the sections and stages of a run with a memory
_OF_MODEL = ("base_training", "base_evaluation", "mid_training", "chat_sft", "chat_rl", "chat_evaluation", "long_context")
_ORDER = ("tokenizer_training", "tokenizer_evaluation", "data", *_OF_MODEL, *(f"{name}{MEMORY}" for name in _OF_MODEL))


@dataclass
class Report:
    """Compose the report from what the stages left (generate, the default), or forget what they left (reset)."""

    out: str = flag("report/report.md", "where generate writes the report; figures go beside it")


def section(name: str, values: Mapping[str, Any]) -> None:
    """Records what a stage has to report, replacing what it reported before.

    `values` is JSON: scalars and nests become tables; `samples`, a list of `{"prompt", "text"}`, becomes text blocks;
    `metrics_file`, the path of a metrics.jsonl, becomes a figure, with that of `baseline_metrics_file` beside it, and so does each
    of `charts` (see `nanochat.charts`). Numbers that are not finite are kept as words.

    Raises `ValueError` for samples and charts of another form.
    """
    for chart in values.get("charts", ()):
        check_chart(chart)
    for sample in values.get("samples", ()):
        if not isinstance(sample, Mapping) or not all(isinstance(sample.get(key), str) for key in ("prompt", "text")):
            raise ValueError(f"samples are {{'prompt': str, 'text': str}}, not {sample!r}")
    record = {
        "section": name,
        "timestamp": _now(),
        "process_seconds": process_seconds(),
        "values": _finite(redact_all(values)),
    }
    write_json(ensure_dir(_folder()) / f"{name}.json", record)


def generate(out: Path) -> list[str]:
    """Writes the report to `out` and its figures beside it; returns the expected sections that are missing.

    Raises `UserError` where a section is broken or `out` cannot be written.
    """
    sections = {path.stem: _read_section(path) for path in sorted(_folder().glob("*.json"))}
    missing = [name for name in EXPECTED if name not in sections and f"{name}{MEMORY}" not in sections]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out.parent}: {error.strerror}; choose another --out") from error
    blocks = ["# Training report", *_summary(sections, missing), "## Environment", *markdown.values(describe_environment())]
    for name in [*_ORDER, *sorted(set(sections) - set(_ORDER))]:
        if name in sections:
            blocks += _section_blocks(name, sections[name], out.parent)
        elif name in missing:
            blocks += [f"## {_title(name)}", f"**Missing**: the stage `{EXPECTED[name]}` has not reported."]
    atomic_write(out, "\n\n".join(blocks) + "\n")
    return missing


def reset() -> int:
    """Removes the recorded sections; returns how many there were. The runner's stamps stay."""
    paths = list(_folder().glob("*.json"))
    for path in paths:
        path.unlink()
    return len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "generate"
    if command not in ("generate", "reset"):
        print(f"error: {command} is not a command; there are generate and reset", file=sys.stderr)
        return 2
    config = parse(Report, arguments)
    if command == "reset":
        print(f"report: {reset()} sections removed")
        return 0
    missing = generate(Path(config.out))
    print(f"report: {config.out}" + (f" (missing: {', '.join(missing)})" if missing else ""))
    return 0


def _folder() -> Path:
    return base_dir() / "report"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _readable(timestamp: str) -> str:
    return timestamp.replace("T", " ").removesuffix("Z")


def _title(name: str) -> str:
    text = markdown.label(name.removesuffix(MEMORY)) + " with a MegaContext" * name.endswith(MEMORY)
    return markdown.escape(text[:1].upper() + text[1:])


def _read_section(path: Path) -> dict[str, Any]:
    record = read_json(path)
    whole = isinstance(record, dict) and {"timestamp", "process_seconds", "values"} <= record.keys()
    if not whole or not isinstance(record["values"], dict):
        raise UserError(f"{path} is not a report section; delete it and run its stage again")
    return record


def _summary(sections: Mapping[str, Mapping[str, Any]], missing: Sequence[str]) -> list[str]:
    """Stages with their wall-clock, the total, and what is missing; then the commands to repeat it."""
    paths = sorted((base_dir() / "stages").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)  # their times are whole seconds
    stamps = [read_json(path) for path in paths if path.stem not in ("report", f"report{MEMORY}")]
    if not all(isinstance(stamp, dict) and {"stage", "command", "seconds", "finished"} <= stamp.keys() for stamp in stamps):
        raise UserError(f"{base_dir() / 'stages'} holds something that is not a stage stamp; delete the folder and run the stages again")
    stamps.sort(key=lambda stamp: stamp["finished"])
    rows = [(stamp["stage"], stamp["seconds"], stamp["finished"]) for stamp in stamps]
    stamped = {stamp["stage"] for stamp in stamps}
    expected = EXPECTED | {f"{name}{MEMORY}": f"{stage}{MEMORY}" for name, stage in EXPECTED.items() if f"{name}{MEMORY}" in sections}
    by_hand = {name: stage for name, stage in expected.items() if stage not in stamped}
    rows += [(stage, sections[name]["process_seconds"], sections[name]["timestamp"]) for name, stage in by_hand.items() if name in sections]
    total = sum(seconds for _, seconds, _ in rows if seconds is not None)
    rows += [(stage, None, "missing") for name, stage in by_hand.items() if name in missing]
    shown = [(stage, None if seconds is None else show_seconds(seconds), _readable(finished)) for stage, seconds, finished in rows]
    header = ("stage", "wall-clock", "finished (UTC)")
    blocks = [
        f"Written {_readable(_now())} UTC.",
        "## Summary",
        markdown.table(header, [*shown, ("total", show_seconds(total), "")], right=(1,)),
    ]
    if stamps:
        blocks.append(markdown.fenced("\n".join(stamp["command"] for stamp in stamps), "sh"))
    return blocks


def _section_blocks(name: str, record: Mapping[str, Any], folder: Path) -> list[str]:
    values = dict(record["values"])
    samples, metrics_file, baseline_file = (values.pop(key, None) for key in ("samples", "metrics_file", "baseline_metrics_file"))
    charts = values.pop("charts", ())
    seconds = record["process_seconds"]
    after = "" if seconds is None else f", {show_seconds(seconds)} after its process began"
    blocks = [f"## {_title(name)}", f"*Reported {_readable(record['timestamp'])} UTC{after}.*"]
    if metrics_file is not None:
        baseline = None if baseline_file is None else Path(baseline_file)
        shown, more = show_run(name, _title(name), Path(metrics_file), baseline, folder)
        blocks += shown
        values |= more
    for chart in charts:
        if (png := chart_png(chart)) is not None:
            atomic_write(folder / f"{name}_{chart['name']}.png", png)
            blocks.append(f"![{markdown.escape(chart['caption'])}]({name}_{chart['name']}.png)")
    blocks += markdown.values(values)
    if samples:
        blocks += ["### Samples", *(_sample(sample) for sample in samples)]
    return blocks


def _sample(sample: Mapping[str, str]) -> str:
    """Prompt, arrow, continuation, as the text they are."""
    prompt, text = sample["prompt"], sample["text"]
    continuation = text.removeprefix(prompt)
    space = "" if continuation[:1].isspace() else " "
    return markdown.fenced(f"{prompt} ⟶{space}{continuation}")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    run(main)
