"""Results in the report: training curves, memory, evaluations and samples, the runs next to each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.report.figures import Records, chart_png, curves_png, intervals_png, memory_png
from nanochat.report.page import LAYOUT, Page, plus_minus, recovery, sample, share
from nanochat.report.run_comparison import compare, comparison_markdown, comparison_png, notes_of
from nanochat.report.sections import MEMORY, Collected, run_file
from nanochat.tracking.run_reader import LOSS, LoggedRun, read_run
from nanochat.tracking.sinks import read_metrics

_TRAININGS = {"base_training": "Base training", "mid_training": "Midtraining", "chat_sft": "SFT", "chat_rl": "RL"}
_CHATS = {"chat_evaluation": "", "chat_evaluation_rl": ", after RL"}
_EVALUATIONS = ("base_evaluation", *_CHATS, "long_context")
_BASE_ROWS = {"val_bpb": "bits per byte, validation", "train_bpb": "bits per byte, training text", "core_metric": "CORE"}
# Keys of sections that are not tables, and keys of evaluations that the page shows elsewhere.
_BLOCKS = {"samples", "layouts", "charts", "metrics_file", "baseline_metrics_file"}
_OF_DATA = {"splits", "left_out"}  # shown by `handover`
_MEASURED = {"memory", "rolling", "tasks", "targets", "focus"}
_INTERVAL = ("accuracy", "low", "high")
_LAYOUTS = {"window": "last tokens alone", "random": "random", "lens": "LensNet"}
_AT_HORIZON = re.compile(r"mc/(.+)@(\d+)")
_AT_LEVEL = re.compile(r"mc/lod_(.+)/(\d+)")

Tasks = Mapping[str, Mapping[str, Any]]  # rows of an evaluation by task


def add_training(page: Page, collected: Collected) -> None:
    """Adds the curves of every training stage."""
    page.add("## Training")
    for section, title in _TRAININGS.items():
        logged = [(run, run.values(section)) for run in collected.runs if "metrics_file" in run.values(section)]
        if logged:
            page.add(f"### {title}")
        for run, values in logged:
            baseline = values.get("baseline_metrics_file")
            if run.ending and baseline is None and len(logged) > 1:
                baseline = logged[0][1]["metrics_file"]
            _add_run(page, section + run.ending, f"{title}, {run.tag}", values["metrics_file"], baseline)
    page.add_if_empty("No training stage has reported.")


def add_memory(page: Page, collected: Collected) -> None:
    """Adds the worth of the memory, its focus and its metrics; nothing if no run has a memory."""
    run = next((run for run in collected.runs if run.ending == MEMORY), None)
    if run is None:
        return
    page.add("## Memory")
    base, chat, long = (run.values(section) for section in ("base_evaluation", "chat_evaluation", "long_context"))
    for title, values in (("base model", base), ("chat model", chat)):
        if rows := [*_memory_rows(values.get("memory")), *_memory_rows(values.get("rolling"))]:
            table = markdown.table(("horizon", "layout", "ΔNLL (nats)", "recovery"), rows, right=(0, 2, 3))
            page.add(f"### Worth of the memory, {title}", table)
            if any(row[3] == "–" for row in rows):
                page.add("No recovery is given if the far context gains too little for a meaningful share of it.")
    for title, values in (("base model", base), ("long context", long)):
        if figures := values.get("focus"):
            rows = [(markdown.label(key), value) for key, value in figures.items()]
            page.add(f"### Focus, {title}", markdown.table(("", ""), rows, right=(1,)))
    layouts = [item for values in (base, chat, long) for item in values.get("layouts", ())]
    if layouts:
        page.add("### Working Contexts")
    for item in layouts:
        page.add(markdown.escape(item["title"]), markdown.fenced(item["text"], LAYOUT))
    if metrics_file := run.values("base_training").get("metrics_file"):
        page.add("### In training")
        _add_memory_run(page, f"base_training{MEMORY}_memory", run_file(metrics_file))
    if long:
        page.add("### Long context")
    _add_charts(page, "long_context", long)
    for title, values in (("Targets of the base model", base), ("Targets of the chat model", chat), ("Targets of long contexts", long)):
        if targets := values.get("targets"):
            page.add(f"### {title}", *markdown.values({"": targets})[-1:])


def add_evaluation(page: Page, collected: Collected) -> None:
    """Adds bits per byte, CORE and tasks, with 95 % intervals."""
    page.add("## Evaluation")
    tags = [run.tag for run in collected.runs]
    bases = [run.values("base_evaluation") for run in collected.runs]
    rows = [(label, *(base.get(key) for base in bases)) for key, label in _BASE_ROWS.items() if any(key in base for base in bases)]
    if rows:
        page.add("### Base model", markdown.table(("", *tags), rows, right=range(1, len(tags) + 1)))
    chats = [(run.tag + after, run.values(section)) for run in collected.runs for section, after in _CHATS.items()]
    models = {label: {row["task"]: row for row in values["tasks"]} for label, values in chats if values.get("tasks")}
    if models:
        page.add("### Chat tasks", "Accuracy with its 95 % interval.", _task_table(models))
        page.figure("chat_tasks", "Accuracy by task with 95 % intervals", _task_png(models))
    page.add_if_empty("No evaluation has reported.")


def add_samples(page: Page, collected: Collected) -> None:
    """Adds the samples of the models, grouped by prompt."""
    page.add("## Samples")
    for section, title in (("base_evaluation", "Base model"), *((name, f"Chat model{after}") for name, after in _CHATS.items())):
        said = [(run, item) for run in collected.runs for item in run.values(section).get("samples", ())]
        if said:
            page.add(f"### {title}")
        several = len({run.ending for run, _ in said}) > 1
        for prompt in dict.fromkeys(item["prompt"] for _, item in said):
            speaker = None
            for run, item in said:
                if item["prompt"] != prompt:
                    continue
                if several and run is not speaker:
                    page.add(f"**{markdown.escape(run.tag)}**")
                    speaker = run
                page.add(sample(prompt, item["text"]))
    page.add_if_empty("No evaluation has left samples.")


def add_other_values(page: Page, name: str, values: Mapping[str, Any], of_recipe: bool) -> None:
    """Adds the values of a section that the page does not show elsewhere; all of them for a section that no recipe knows."""
    if not of_recipe and "metrics_file" in values:
        _add_run(page, name, markdown.label(name), values["metrics_file"], values.get("baseline_metrics_file"))
    if name != "long_context":
        _add_charts(page, name, values)
    hidden = _BLOCKS | (_MEASURED if name.removesuffix(MEMORY) in _EVALUATIONS else _OF_DATA if name == "data" else set())
    page.add(*markdown.values({key: value for key, value in values.items() if key not in hidden}, level=4))
    if not of_recipe:
        page.add(*(sample(item["prompt"], item["text"]) for item in values.get("samples", ())))


def last_values(records: Records) -> dict[str, Any]:
    """The last value of every metric."""
    return {name: value for record in records for name, value in record.items()}


def _add_charts(page: Page, section: str, values: Mapping[str, Any]) -> None:
    for chart in values.get("charts", ()):
        page.figure(f"{section}_{chart['name']}", chart["caption"], chart_png(chart))


def _add_run(page: Page, name: str, title: str, metrics_file: str, baseline_file: str | None) -> None:
    """Adds the curves of a run as figure `name`, compared with those of its baseline if it has one.

    `baseline_file` is the metrics file of the same run without a memory.
    """
    path = run_file(metrics_file)
    if not path.exists():
        page.add(f"No curves: {markdown.escape(str(path))} no longer exists.")
        return
    baseline = None if baseline_file is None else _baseline(page, run_file(baseline_file))
    if baseline is None:
        shown = page.figure(name, f"{title}: loss and bits per byte against tokens", curves_png(read_metrics(path), title))
    else:
        runs = [baseline, read_run(path, "MegaContext")]
        png = comparison_png(runs, "tokens", [LOSS, "val/bpb"], smoothed=True)
        shown = page.figure(name, f"{title}: loss and bits per byte next to the baseline's", png)
        _add_comparison(page, runs)
    if not shown:
        page.add(f"No curves: {markdown.escape(str(path))} has no losses.")


def _baseline(page: Page, path: Path) -> LoggedRun | None:
    if path.exists():
        return read_run(path, "baseline")
    page.add(f"No baseline to compare with: {markdown.escape(str(path))} does not exist; run the same without --mc.")
    return None


def _add_comparison(page: Page, runs: Sequence[LoggedRun]) -> None:
    """Adds the output of `scripts.compare` for these runs."""
    comparison = compare(runs)
    page.add(comparison_markdown(comparison))
    lines = [line for verdict in comparison.verdicts for line in (str(verdict), *verdict.notes)]
    page.add(*(markdown.escape(line) for line in [*lines, *(note for run in runs for note in notes_of(run))]))


def _add_memory_run(page: Page, name: str, path: Path) -> None:
    """Adds the memory's metrics of a training run: a figure called `name`, and last values as tables."""
    if path.exists():
        records = read_metrics(path)
        page.figure(name, "In training: ΔNLL, recovery, loss by level, preferences", memory_png(records, "Memory"))
        page.add(*markdown.values(_memory_values(records), level=4))


def _memory_values(records: Records) -> dict[str, Any]:
    """The last value of each mc/ metric: those of horizons, those of levels, the others."""
    horizons: dict[int, dict[str, Any]] = {}
    levels: dict[int, dict[str, Any]] = {}
    others = {}
    for name, value in last_values(records).items():
        if not name.startswith("mc/") or value is None:
            continue
        if at := _AT_HORIZON.fullmatch(name):
            horizons.setdefault(int(at[2]), {"horizon": int(at[2])})[at[1]] = value
        elif at := _AT_LEVEL.fullmatch(name):
            levels.setdefault(int(at[2]), {"level": int(at[2])})[at[1]] = value
        else:
            others[name.removeprefix("mc/")] = value
    return {
        "memory behind the decision point": [horizons[horizon] for horizon in sorted(horizons)],
        "memory by level": [levels[level] for level in sorted(levels)],
        "memory at the end of training": others,
    }


def _memory_rows(values: Any) -> Iterator[tuple[Any, str, str, str]]:
    """Horizon or interval, layout, ΔNLL and recovery, from rows of base_eval or from the metrics that chat_eval reports."""
    if isinstance(values, list):
        for row in values:
            layout = _LAYOUTS.get(row.get("layout"), row.get("layout"))
            worth = plus_minus(row.get("delta_nll"), row.get("delta_nll_error")), recovery(row.get("recovery"), row.get("recovery_error"))
            yield row.get("horizon") or f"rolling, every {row.get('interval')}", layout, *worth
    elif isinstance(values, dict):
        for horizon in sorted({int(name.rpartition("@")[2]) for name in values if "@" in name}):
            for layout, shown in _LAYOUTS.items():
                at = f"{'' if layout == 'lens' else f'_{layout}'}@{horizon}"
                if f"mc/delta_nll{at}" in values:
                    part = 0.0 if layout == "window" else values.get(f"mc/recovery{at}")
                    yield horizon, shown, plus_minus(values[f"mc/delta_nll{at}"], None), recovery(part, None)


def _task_table(models: Mapping[str, Tasks]) -> str:
    known = {name: row for tasks in models.values() for name, row in tasks.items()}
    rows = [
        (name, row.get("problems"), row.get("chance"), *(share(tasks[name]) if name in tasks else None for tasks in models.values()))
        for name, row in known.items()
    ]
    return markdown.table(("task", "problems", "chance", *models), rows, right=range(1, 3 + len(models)))


def _task_png(models: Mapping[str, Tasks]) -> bytes | None:
    names = list(dict.fromkeys(name for tasks in models.values() for name in tasks))
    series = {
        label: [(names.index(name), *(row[key] for key in _INTERVAL)) for name, row in tasks.items() if set(_INTERVAL) <= row.keys()]
        for label, tasks in models.items()
    }
    return intervals_png(names, series, "accuracy")
