"""Hand-over part of the report: alerts, check, environment, commands, checkpoint hashes, data, W&B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nanochat import markdown
from nanochat.checkpoint.manifest import META, InvalidError, read_manifest
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, read_json
from nanochat.report.environment import describe_environment
from nanochat.report.page import Page, readable
from nanochat.report.sections import CHECK, RECIPE, Collected, run_file
from nanochat.tracking.run_log import ALERTS_FILE
from nanochat.tracking.sinks import read_metrics

_ALERT = ("step", "metric", "value", "band", "message")
_WEIGHTS = "model"  # prefix of the files with the weights


Alerts = Mapping[str, list[dict[str, Any]]]


class Saved(NamedTuple):
    """Newest checkpoint of a stage; `problem` is the reason why its manifest or meta cannot be read."""

    stage: str
    folder: Path
    step: int
    files: Mapping[str, Mapping[str, Any]]
    meta: Mapping[str, Any]
    problem: str | None

    @property
    def name(self) -> str:
        """Folder, relative to the base folder."""
        return str(self.folder.relative_to(base_dir()))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.get("bytes", 0) for entry in self.files.values())


def collect_alerts(collected: Collected) -> Alerts:
    """Alerts of every training run that has reported, by stage and tag. Raises `UserError` if they cannot be read."""
    found = {}
    for run in collected.runs:
        for entry in run.entries:
            if entry.stage.trains and (metrics_file := entry.values.get("metrics_file")):
                path = run_file(metrics_file).with_name(ALERTS_FILE)
                found[f"{entry.stage.name}, {run.tag}"] = read_metrics(path) if path.exists() else []
    return found


def newest_checkpoints(tags: list[str]) -> Iterator[Saved]:
    """Newest checkpoint, valid or not, of each training stage of the models with these tags. Reads no weights."""
    for stage in RECIPE:
        if stage.trains is None:
            continue
        for tag in tags:
            store = CheckpointStore(base_dir() / f"{stage.trains}_checkpoints" / tag)
            if steps := store.steps():
                yield _saved(stage.name, store.folder / f"step_{steps[-1]:07d}", steps[-1])


def add_alerts(page: Page, alerts: Alerts) -> None:
    """Adds a table of the alerts."""
    page.add("## Alerts")
    rows = [(run, *(alert.get(key) for key in _ALERT)) for run, found in alerts.items() for alert in found]
    if rows:
        page.add(markdown.table(("run", "step", "metric", "value", "band", "alert"), rows, right=(1, 3)))
    else:
        page.add("None: all metrics are within their bounds." if alerts else "None known: no training run has reported.")


def add_check(page: Page, collected: Collected) -> None:
    """Adds the findings of the last check."""
    page.add("## Check")
    record = collected.sections.get(CHECK)
    if record is None:
        page.add("Not checked yet; run `python -m nanochat.report check`.")
        return
    page.add(f"*{readable(record['timestamp'])} UTC.*")
    points = [point for point in record["values"].get("points", ()) if isinstance(point, dict)]
    rows = [(point.get("result"), point.get("point"), point.get("model"), point.get("found")) for point in points]
    page.add(markdown.table(("result", "point", "model", "what was found"), rows))


def add_environment(page: Page) -> None:
    """Adds facts about the machine that the report is written on."""
    page.add("## Environment", *markdown.values(describe_environment()))


def add_commands(page: Page, collected: Collected) -> None:
    """Adds the commands of all stages, as recorded by the runner, in the order in which they ended."""
    page.add("## Commands")
    commands = [stamp["command"] for name, stamp in collected.stamps.items()]
    page.add(markdown.fenced("\n".join(commands), "sh") if commands else "None known: the stages were run by hand.")


def add_checkpoints(page: Page, collected: Collected) -> None:
    """Adds the newest checkpoint of every training stage with the hash of its weights, and the data and W&B run behind it."""
    saved = list(newest_checkpoints([run.tag for run in collected.runs]))
    page.add("## Checkpoints", f"In {markdown.escape(str(base_dir()))}; the newest of each stage.")
    rows = []
    for one in saved:
        weights = {name: entry for name, entry in one.files.items() if name.startswith(_WEIGHTS)}
        hashes = [(name, entry.get("sha256")) for name, entry in weights.items()] or [("–", one.problem)]
        rows += [(one.name, one.step, f"{one.size / 2**20:,.1f}", file, digest) for file, digest in hashes]
    if rows:
        page.add(markdown.table(("folder", "step", "MiB in all", "file", "SHA-256"), rows, right=(1, 2)))
        page.add("The hashes of the other files are in the `manifest.json` of each folder; reading a checkpoint checks them.")
    else:
        page.add("None.")
    page.add("## Data and runs")
    _add_data(page, collected)
    tags = {run.ending: run.tag for run in collected.runs}
    rows = []
    for entry in collected.entries:
        if entry.stage.trains and entry.section is not None:
            meta = next((one.meta for one in saved if (one.stage, one.folder.parent.name) == (entry.stage.name, tags[entry.ending])), {})
            data_hash = meta.get("identity", {}).get("data")
            rows.append((entry.stage.name, tags[entry.ending], data_hash, meta.get("tokenizer"), _wandb(entry.values)))
    if rows:
        page.add(markdown.table(("stage", "run", "hash of its rows", "tokenizer", "W&B run"), rows))


def _add_data(page: Page, collected: Collected) -> None:
    """Adds the dataset, what its splits hold and what was left out of it."""
    if "data" not in collected.sections:
        page.add("The dataset is unknown: base training has not reported.")
        return
    data = collected.sections["data"]["values"]
    page.add(markdown.table(("", ""), [("dataset", data.get("dataset")), ("hash of its files", data.get("fingerprint"))]))
    if splits := data.get("splits"):
        columns = list(next(iter(splits.values())))
        rows = [(split, *(held.get(name) for name in columns)) for split, held in splits.items()]
        page.add(markdown.table(("split", *columns), rows, right=range(1, 1 + len(columns))))
        rows = [
            (f"{lost['count']:,} {lost['what']}{'s' * (lost['count'] != 1)}", lost["why"], ", ".join(lost["first"]))
            for lost in data["left_out"]
        ]
        page.add(markdown.table(("left out", "why", "the first"), rows) if rows else "Nothing was left out.")


def _saved(stage: str, folder: Path, step: int) -> Saved:
    try:
        files, meta = read_manifest(folder, step), read_json(folder / META)
    except (InvalidError, UserError) as why:
        return Saved(stage, folder, step, {}, {}, str(why))
    return Saved(stage, folder, step, files, meta if isinstance(meta, dict) else {}, None)


def _wandb(values: Mapping[str, Any]) -> str:
    """Name and id of the W&B run of a training stage."""
    metrics_file = values.get("metrics_file")
    id_file = None if metrics_file is None else run_file(metrics_file).with_name("wandb_run_id")
    if id_file is None or not id_file.is_file():
        return "none"
    return f"{values.get('W&B run', '')} ({id_file.read_text(encoding='utf-8', errors='replace').strip()})".strip()
