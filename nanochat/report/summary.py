"""Summary of the report: the models, their main results, and the state of every stage."""

from __future__ import annotations

from typing import Any

from nanochat import markdown
from nanochat.report.handover import Alerts
from nanochat.report.page import Page, centered, plus_minus, readable, recovery
from nanochat.report.sections import CHECK, MEMORY, Collected, ReportedRun, now
from nanochat.tracking.sinks import show_seconds

_NOT_STAGES = ("report", f"report{MEMORY}", "check", f"check{MEMORY}")  # stamps of commands about the stages


def add_summary(page: Page, collected: Collected, alerts: Alerts) -> None:
    """Adds the main results and the state of the run, for a reader with one minute."""
    page.add("# Training report", f"Written {readable(now())} UTC.", "## Summary")
    page.add(*(_sentence(run) for run in collected.runs))
    page.add(headline(collected), "\n".join(f"- {line}" for line in _state(collected, alerts)))


def headline(collected: Collected) -> str:
    """Table of the main results, one column per run, each with its 95 % interval if known."""
    columns = [_results(run) for run in collected.runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name) for column in columns)) for name in names]
    return markdown.table(("", *(run.tag for run in collected.runs)), rows, right=range(1, len(columns) + 1))


def add_stages(page: Page, collected: Collected) -> None:
    """Adds a table of all stages: run, state, time and end."""
    tags = {run.ending: run.tag for run in collected.runs}
    known = {entry.name for entry in collected.entries}
    # Set-up and downloads report nothing; they have stamps only.
    rows = [(name, "", "done", s["seconds"], s["finished"]) for name, s in collected.stamps.items() if name not in {*known, *_NOT_STAGES}]
    for entry in collected.entries:
        if entry.state != "missing" or entry.stage.required:
            tag = tags[entry.ending] if entry.stage.of_model else ""
            state = entry.state if entry.state != "failed" or not entry.failure else f"failed, exit code {entry.failure['code']}"
            rows.append((entry.stage.name, tag, state, entry.seconds, entry.finished))
    total = sum(seconds for *_, seconds, _ in rows if seconds is not None)
    shown = [(name, tag, state, _time(seconds), readable(finished)) for name, tag, state, seconds, finished in rows]
    shown.append(("total", "", "", _time(total), ""))
    page.add("## Stages", markdown.table(("stage", "run", "state", "time", "finished (UTC)"), shown, right=(3,)))
    if missing := [f"`{name}`" for name in collected.missing]:
        page.add(f"**Missing**: {', '.join(missing)}. Run the same recipe again: finished stages are skipped.")


def _sentence(run: ReportedRun) -> str:
    values, data = run.values("base_training"), run.values("base_evaluation")
    name = f"**{markdown.escape(run.tag)}**" + ", with a MegaContext:" * bool(run.ending) + ":" * (not run.ending)
    if not values:
        return f"{name} base training has not reported."
    parts = [
        f"{values['parameters'] / 1e6:,.1f} M parameters" if isinstance(values.get("parameters"), int) else "",
        f"{markdown.escape(str(values['layers × width']))} (layers × width)" if "layers × width" in values else "",
        f"trained on {values['tokens'] / 1e6:,.2f} M tokens" if isinstance(values.get("tokens"), int) else "",
        f"{_time(values['seconds in steps'])} in steps" if isinstance(values.get("seconds in steps"), float) else "",
        f"to {data['val_bpb']:.4f} bits per byte of held-out text" if isinstance(data.get("val_bpb"), float) else "",
    ]
    after = [name for section, name in (("mid_training", "midtraining"), ("chat_sft", "SFT"), ("chat_rl", "RL")) if run.values(section)]
    return f"{name} {', '.join(part for part in parts if part)}" + (f"; then {', '.join(after)}." if after else ".")


def _results(run: ReportedRun) -> dict[str, Any]:
    """Main results by name; unknown ones are left out."""
    training, base, chat = (run.values(section) for section in ("base_training", "base_evaluation", "chat_evaluation"))
    seconds = [entry.seconds for entry in run.entries if entry.seconds is not None]
    found: dict[str, Any] = {"validation bits per byte": base.get("val_bpb"), "CORE": base.get("core_metric")}
    tasks = [row for row in chat.get("tasks", ()) if isinstance(row, dict)]
    if isinstance(core := chat.get("ChatCORE"), float):
        half = centered(tasks)
        found["ChatCORE (0 guesses, 1 is perfect)"] = f"{core:.3f}" if half is None else f"{core:.3f} ± {half:.3f}"
    memory = [row for row in base.get("memory", ()) if isinstance(row, dict) and row.get("layout") == "lens"]
    if memory:
        row = max(memory, key=lambda row: row["horizon"])
        found[f"ΔNLL@{row['horizon']} (nats per token)"] = plus_minus(row.get("delta_nll"), row.get("delta_nll_error"))
        found[f"recovery@{row['horizon']}"] = recovery(row.get("recovery"), row.get("recovery_error"))
    found |= {
        "tokens per second": training.get("tokens per second"),
        "peak memory (MiB)": training.get("peak memory MiB"),
        "time of its stages": _time(sum(seconds)) if seconds else None,
    }
    rounded = {name: round(value, 4 if abs(value) < 100 else 0) if isinstance(value, float) else value for name, value in found.items()}
    return {name: value for name, value in rounded.items() if value is not None}


def _state(collected: Collected, alerts: Alerts) -> list[str]:
    """One line each on stages, alerts and check."""
    failed = [f"`{entry.name}` ({entry.state})" for entry in collected.entries if entry.state in ("failed", "stopped")]
    missing = [f"`{name}`" for name in collected.missing]
    lines = [f"Stages missing: {', '.join(missing)}." if missing else "No stage is missing."]
    if failed:
        lines.append(f"Stages that ended early: {', '.join(failed)}.")
    count = sum(map(len, alerts.values()))
    lines.append(f"{count} alert{'s' * (count > 1)}; see Alerts." if count else "No alerts.")
    check = collected.sections.get(CHECK)
    if check is None:
        lines.append("Not checked yet; run `python -m nanochat.report check`.")
    else:
        points = [point for point in check["values"].get("points", ()) if isinstance(point, dict)]
        bad = sum(point.get("result") != "ok" for point in points)
        what = f"{bad} of {len(points)} points are not ok" if bad else f"all {len(points)} points are ok"
        lines.append(f"Checked {readable(check['timestamp'])} UTC: {what}.")
    return lines


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else show_seconds(seconds)
