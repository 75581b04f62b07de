"""What was measured of the models: tasks, bits per byte, memory, layouts, samples; the runs side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat import markdown
from nanochat.report.figures import chart_png, curves_png, intervals_png, memory_png
from nanochat.report.page import LAYOUT, Page, plus_minus, recovery, sample, share
from nanochat.report.run_comparison import compare, comparison_markdown, comparison_png, notes_of
from nanochat.report.sections import MEMORY, Collected, run_file
from nanochat.tracking.run_reader import LOSS, LoggedRun, read_run
from nanochat.tracking.sinks import read_metrics

_TRAININGS = ("base_training", "mid_training", "chat_sft", "chat_rl")
_TITLES = {"base_training": "Base training", "mid_training": "Midtraining", "chat_sft": "SFT", "chat_rl": "RL"}
_CHATS = {"chat_evaluation": "", "chat_evaluation_rl": ", after RL"}
_EVALUATIONS = ("base_evaluation", *_CHATS, "long_context")
# Keys that are no tables, and those of evaluations that a part of the page of their own shows.
_BLOCKS = {"samples", "layouts", "charts", "metrics_file", "baseline_metrics_file"}
_MEASURED = {"memory", "tasks", "targets", "focus"}
_INTERVAL = ("accuracy", "low", "high")
_LAYOUTS = {"lens": "LensNet", "window": "last tokens alone", "random": "random"}
Records = Sequence[Mapping[str, Any]]
_AT_HORIZON = re.compile(r"mc/(.+)@(\d+)")
_AT_LEVEL = re.compile(r"mc/lod_(.+)/(\d+)")


def add_training(page: Page, collected: Collected) -> None:
    """The curves of every training stage."""
    page.add("## Training")
    for section in _TRAININGS:
        logged = [(run, run.values(section)) for run in collected.runs if "metrics_file" in run.values(section)]
        if logged:
            page.add(f"### {_TITLES[section]}")
        for run, values in logged:
            baseline = values.get("baseline_metrics_file")
            if run.ending and baseline is None and len(logged) > 1:
                baseline = logged[0][1]["metrics_file"]
            show_run(page, section + run.ending, f"{_TITLES[section]}, {run.tag}", values["metrics_file"], baseline)
    if page.blocks[-1] == "## Training":
        page.add("No training stage has reported.")


def add_memory(page: Page, collected: Collected) -> None:
    """What the memory is worth and where its focus lies; nothing where no run has one."""
    run = next((run for run in collected.runs if run.ending == MEMORY), None)
    if run is None:
        return
    page.add("## Memory")
    base, chat, long = (run.values(section) for section in ("base_evaluation", "chat_evaluation", "long_context"))
    for title, values in (("base model", base), ("chat model", chat)):
        if rows := list(_memory_rows(values.get("memory"))):
            page.add(f"### Worth of the memory, {title}", markdown.table(*_memory_table(rows), right=(0, 2, 3)))
            if any(row[3] == "–" for row in rows):
                page.add("No recovery is given where the far context gives too little for a share of it to mean anything.")
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
        show_memory_run(page, f"base_training{MEMORY}_memory", metrics_file)
    if long:
        page.add("### Long context")
    for chart in long.get("charts", ()):
        page.figure(f"long_context_{chart['name']}", chart["caption"], chart_png(chart))
    for title, values in (("Targets of the base model", base), ("Targets of the chat model", chat), ("Targets of long contexts", long)):
        if targets := values.get("targets"):
            page.add(f"### {title}", *markdown.values({"": targets})[-1:])


def add_evaluation(page: Page, collected: Collected) -> None:
    """Bits per byte, CORE and tasks, with 95 % intervals."""
    page.add("## Evaluation")
    tags = [run.tag for run in collected.runs]
    bases = [run.values("base_evaluation") for run in collected.runs]
    rows = [(label, *(base.get(key) for base in bases)) for label, key in _BASE_ROWS if any(key in base for base in bases)]
    if rows:
        page.add("### Base model", markdown.table(("", *tags), rows, right=range(1, len(tags) + 1)))
    chats = [(run.tag + after, run.values(section)) for run in collected.runs for section, after in _CHATS.items()]
    chats = [(label, values["tasks"]) for label, values in chats if values.get("tasks")]
    if chats:
        labels, tasks = [label for label, _ in chats], [{row["task"]: row for row in of_run} for _, of_run in chats]
        page.add("### Chat tasks", "Accuracy with its 95 % interval.", _task_table(labels, tasks))
        page.figure("chat_tasks", "Accuracy by task with 95 % intervals", _task_png(labels, tasks))
    if page.blocks[-1] == "## Evaluation":
        page.add("No evaluation has reported.")


def add_samples(page: Page, collected: Collected) -> None:
    """What the models say, the same prompts under each other."""
    page.add("## Samples")
    for section, title in (("base_evaluation", "Base model"), *((name, f"Chat model{after}") for name, after in _CHATS.items())):
        said = [(run, item) for run in collected.runs for item in run.values(section).get("samples", ())]
        if not said:
            continue
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
    if page.blocks[-1] == "## Samples":
        page.add("No evaluation has left samples.")


def add_other_values(page: Page, name: str, values: Mapping[str, Any], of_recipe: bool) -> None:
    """What a section holds beside what the page shows elsewhere; of one that no recipe knows, everything."""
    if not of_recipe and "metrics_file" in values:
        show_run(page, name, markdown.label(name), values["metrics_file"], values.get("baseline_metrics_file"))
    for chart in values.get("charts", ()) if name != "long_context" else ():
        page.figure(f"{name}_{chart['name']}", chart["caption"], chart_png(chart))
    hidden = _BLOCKS | (_MEASURED if name.removesuffix(MEMORY) in _EVALUATIONS else set())
    page.add(*markdown.values({key: value for key, value in values.items() if key not in hidden}, level=4))
    if not of_recipe:
        page.add(*(sample(item["prompt"], item["text"]) for item in values.get("samples", ())))


_BASE_ROWS = (("bits per byte, validation", "val_bpb"), ("bits per byte, training text", "train_bpb"), ("CORE", "core_metric"))


def _task_table(tags: Sequence[str], tasks: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    names = dict.fromkeys(name for of_run in tasks for name in of_run)
    known = {name: row for of_run in tasks for name, row in of_run.items()}
    accuracies = {name: [share(of_run[name]) if name in of_run else None for of_run in tasks] for name in names}
    rows = [(name, known[name].get("problems"), known[name].get("chance"), *accuracies[name]) for name in names]
    return markdown.table(("task", "problems", "chance", *tags), rows, right=range(1, 3 + len(tags)))


def _task_png(tags: Sequence[str], tasks: Sequence[Mapping[str, Mapping[str, Any]]]) -> bytes | None:
    names = list(dict.fromkeys(name for of_run in tasks for name in of_run))
    series = {
        tag: [(names.index(name), *(row[key] for key in _INTERVAL)) for name, row in of_run.items() if set(_INTERVAL) <= row.keys()]
        for tag, of_run in zip(tags, tasks, strict=True)
    }
    return intervals_png(names, series, "accuracy")


def _memory_rows(values: Any) -> Iterator[tuple[Any, str, str, str]]:
    """Horizon, layout, ΔNLL and recovery: of the rows of base_eval, and of the metrics that chat_eval reports."""
    if isinstance(values, list):
        for row in values:
            yield (
                row.get("horizon"),
                _LAYOUTS.get(row.get("layout"), row.get("layout")),
                plus_minus(row.get("delta_nll"), row.get("delta_nll_error")),
                recovery(row.get("recovery"), row.get("recovery_error")),
            )
    elif isinstance(values, dict):
        horizons = sorted({int(name.rpartition("@")[2]) for name in values if "@" in name})
        for horizon in horizons:
            for suffix, layout in (("_window", "window"), ("_random", "random"), ("", "lens")):
                if f"mc/delta_nll{suffix}@{horizon}" in values:
                    part = 0.0 if layout == "window" else values.get(f"mc/recovery{suffix}@{horizon}")
                    yield horizon, _LAYOUTS[layout], plus_minus(values[f"mc/delta_nll{suffix}@{horizon}"], None), recovery(part, None)


def _memory_table(rows: Sequence[tuple[Any, str, str, str]]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    return ("horizon", "layout", "ΔNLL (nats)", "recovery"), rows


def show_run(page: Page, name: str, title: str, metrics_file: str, baseline_file: str | None = None) -> None:
    """Adds the curves of the run that logged to `metrics_file`, and where it has a baseline, how the two compare.

    The figure is called `name`. `baseline_file` is for a run with a memory: where the same run without one logs.
    """
    path = run_file(metrics_file)
    if not path.exists():
        page.add(f"No curves: {markdown.escape(str(path))} is not there any more.")
        return
    baseline = None if baseline_file is None else _baseline(page, run_file(baseline_file))
    if baseline is None:
        shown = page.figure(name, f"{title}: loss and bits per byte against tokens", curves_png(read_metrics(path), title))
    else:
        runs = [baseline, read_run(path, "MegaContext")]
        png = comparison_png(runs, "tokens", [LOSS, "val/bpb"], smoothed=True)
        shown = page.figure(name, f"{title}: loss and bits per byte beside the baseline's", png)
        _compare(page, runs)
    if not shown:
        page.add(f"No curves: {markdown.escape(str(path))} has no losses.")


def show_memory_run(page: Page, name: str, metrics_file: str) -> None:
    """Adds what the run with a memory that logged to `metrics_file` says of it: a figure called `name`, and last values as tables."""
    path = run_file(metrics_file)
    if not path.exists():
        return
    records = read_metrics(path)
    page.figure(name, "In training: ΔNLL, recovery, loss by level, preferences", memory_png(records, "Memory"))
    page.add(*markdown.values(_memory_values(records), level=4))


def _baseline(page: Page, path: Path) -> LoggedRun | None:
    if path.exists():
        return read_run(path, "baseline")
    page.add(f"No baseline to compare with: {markdown.escape(str(path))} is not there; run the same without --mc.")
    return None


def _compare(page: Page, runs: Sequence[LoggedRun]) -> None:
    """Adds what `scripts.compare` prints of these runs."""
    comparison = compare(runs)
    page.add(comparison_markdown(comparison))
    lines = [line for verdict in comparison.verdicts for line in (str(verdict), *verdict.notes)]
    page.add(*(markdown.escape(line) for line in [*lines, *(note for run in runs for note in notes_of(run))]))


def _memory_values(records: Records) -> dict[str, Any]:
    """The last value of each mc/ metric: those of horizons, those of levels, the others."""
    last = {name: value for name, value in last_values(records).items() if name.startswith("mc/") and value is not None}
    horizons: dict[int, dict[str, Any]] = {}
    levels: dict[int, dict[str, Any]] = {}
    others = {}
    for name, value in last.items():
        if at := _AT_HORIZON.fullmatch(name):
            horizons.setdefault(int(at[2]), {"horizon": int(at[2])})[at[1]] = value
        elif at := _AT_LEVEL.fullmatch(name):
            levels.setdefault(int(at[2]), {"level": int(at[2])})[at[1]] = value
        else:
            others[name.removeprefix("mc/")] = value
    return {
        "memory behind the decision point": [horizons[h] for h in sorted(horizons)],
        "memory by level": [levels[level] for level in sorted(levels)],
        "memory at the end of training": others,
    }


def last_values(records: Records) -> dict[str, Any]:
    """The last value of every metric."""
    return {name: value for record in records for name, value in record.items()}
