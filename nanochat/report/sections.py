"""What the report is made of: the stages of a recipe, the sections they leave, the runner's stamps, and where a run logged.

$NANOCHAT_BASE_DIR/report/<section>.json   what a stage has to report
$NANOCHAT_BASE_DIR/stages/<stage>.json     the runner's stamp: {"stage", "command", "seconds", "finished"}
$NANOCHAT_BASE_DIR/stages/<stage>.failed   the same with {"code"} where the stage ended otherwise; gone when it begins again
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from nanochat.common import UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.report.environment import process_seconds
from nanochat.report.figures import check_chart
from nanochat.tracking.sinks import redact_all

MEMORY = "_mc"  # at the end of the names of the sections and stages of a run with a memory
CHECK = "check"  # the section that `nanochat.report check` leaves
_LAYOUT_KEYS, _SAMPLE_KEYS = ("title", "text"), ("prompt", "text")


class Stage(NamedTuple):
    """A stage of a recipe and the section it leaves; `trains` is the beginning of its checkpoint folder's name."""

    name: str
    section: str
    trains: str | None = None
    required: bool = True
    of_model: bool = True  # false: it serves the runs with and without a memory alike
    memory_only: bool = False  # its section has no ending


RECIPE = (
    Stage("tok_train", "tokenizer_training", of_model=False),
    Stage("tok_eval", "tokenizer_evaluation", of_model=False),
    Stage("base_train", "base_training", "base"),
    Stage("base_eval", "base_evaluation"),
    Stage("mid_train", "mid_training", "mid"),
    Stage("chat_sft", "chat_sft", "sft"),
    Stage("chat_rl", "chat_rl", "rl", required=False),
    Stage("chat_eval", "chat_evaluation"),
    Stage("chat_eval_rl", "chat_evaluation_rl", required=False),
    Stage("chat_eval_rl", "chat_evaluation_rl", required=False),
    Stage("mc_eval", "long_context", required=False, memory_only=True),
)


@dataclass(frozen=True)
class Entry:
    """A stage of one run and what is known of it: its section and its stamps, None where there is none."""

    stage: Stage
    ending: str  # "" or `MEMORY`
    section: Mapping[str, Any] | None
    stamp: Mapping[str, Any] | None
    failure: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """As the runner calls the stage."""
        return self.stage.name + self.ending * self.stage.of_model

    @property
    def section_name(self) -> str:
        """Of its section."""
        return self.stage.section + self.ending * (self.stage.of_model and not self.stage.memory_only)

    @property
    def values(self) -> Mapping[str, Any]:
        """What it reported; empty where it has not."""
        return {} if self.section is None else self.section["values"]

    @property
    def state(self) -> str:
        """done, failed, stopped or missing. A run by hand has no stamp: its section tells that it is through."""
        if self.failure is not None and self.failure["finished"] >= (self.stamp["finished"] if self.stamp else ""):
            return "stopped" if self.failure["code"] in (130, 143, 129) else "failed"
        return "done" if self.section is not None else "missing"

    @property
    def seconds(self) -> float | None:
        """Wall-clock: of the stage, or where it was run by hand, until it reported."""
        known = self.failure if self.state in ("failed", "stopped") else self.stamp
        return known["seconds"] if known else self.section["process_seconds"] if self.section else None

    @property
    def finished(self) -> str:
        """When, in UTC; empty where it never was."""
        known = self.failure if self.state in ("failed", "stopped") else self.stamp
        return known["finished"] if known else self.section["timestamp"] if self.section else ""


@dataclass(frozen=True)
class Run:
    """The stages of one model, with a memory or without."""

    ending: str
    entries: tuple[Entry, ...]

    def values(self, section: str) -> Mapping[str, Any]:
        """What the stage with this section, whose ending is left out, has reported."""
        return next(entry.values for entry in self.entries if entry.stage.section == section)

    @property
    def tag(self) -> str:
        """The name of its folders, as far as any stage has told; else what kind it is."""
        for entry in self.entries:
            if tag := entry.values.get("model tag"):
                return tag
            if isinstance(model := entry.values.get("model"), str):
                return model.partition(",")[0]
        return "MegaContext" if self.ending else "baseline"


@dataclass(frozen=True)
class Collected:
    """All that lies in an artefact folder for the report."""

    sections: Mapping[str, Mapping[str, Any]]
    stamps: Mapping[str, Mapping[str, Any]]  # in the order in which they ended
    shared: tuple[Entry, ...]
    runs: tuple[Run, ...]  # the baseline before the one with a memory

    @property
    def entries(self) -> list[Entry]:
        """Every stage of every run in the order of the recipe, those of the runs beside each other."""
        known = [*self.shared, *(entry for run in self.runs for entry in run.entries)]
        return sorted(known, key=lambda entry: RECIPE.index(entry.stage))

    @property
    def missing(self) -> list[str]:
        """The stages of the recipe that have not reported."""
        return [entry.name for entry in self.entries if entry.stage.required and entry.section is None]


def section(name: str, values: Mapping[str, Any]) -> None:
    """Records what a stage has to report, replacing what it reported before.

    `values` is JSON: scalars and nests become tables; `samples`, a list of `{"prompt", "text"}`, and `layouts`, one of
    `{"title", "text"}`, become text blocks; `metrics_file`, the path of a metrics.jsonl, becomes a figure, with that of
    `baseline_metrics_file` beside it, and so does each of `charts` (see `nanochat.report.figures`). Numbers that are not finite are kept
    as words.

    Raises `ValueError` for samples, layouts and charts of another form.
    """
    for chart in values.get("charts", ()):
        check_chart(chart)
    for key, wanted in (("samples", _SAMPLE_KEYS), ("layouts", _LAYOUT_KEYS)):
        for item in values.get(key, ()):
            if not _has_texts(item, wanted):
                raise ValueError(f"{key} are {{{', '.join(f'{name!r}: str' for name in wanted)}}}, not {item!r}")
    record = {"section": name, "timestamp": now(), "process_seconds": process_seconds(), "values": _finite(redact_all(values))}
    write_json(ensure_dir(sections_folder()) / f"{name}.json", record)


def collect() -> Collected:
    """Reads everything. Raises `UserError` naming a section or stamp that is broken."""
    sections = {path.stem: _read_section(path) for path in sorted(sections_folder().glob("*.json"))}
    stamps, failures = _read_stamps("*.json", ".json"), _read_stamps("*.failed", ".failed", "code")
    known = {*sections, *stamps, *failures}

    def entry(stage: Stage, ending: str) -> Entry:
        found = Entry(stage, ending, None, None, None)
        return Entry(stage, ending, sections.get(found.section_name), stamps.get(found.name), failures.get(found.name))

    def is_there(ending: str) -> bool:
        of_run = [entry(stage, ending) for stage in RECIPE if stage.of_model and bool(ending) >= stage.memory_only]
        return any({found.name, found.section_name} & known for found in of_run)

    with_memory = is_there(MEMORY)
    endings = [ending for ending, there in (("", is_there("") or not with_memory), (MEMORY, with_memory)) if there]
    of_model = [stage for stage in RECIPE if stage.of_model]
    runs = tuple(Run(e, tuple(entry(s, e) for s in of_model if bool(e) >= s.memory_only)) for e in endings)
    return Collected(sections, stamps, tuple(entry(stage, "") for stage in RECIPE if not stage.of_model), runs)


def sections_folder() -> Path:
    """Where the sections are."""
    return base_dir() / "report"


def run_file(recorded: str) -> Path:
    """Where a file of a run is that was at `recorded`: the artefact folder may have been moved since."""
    path = Path(recorded)
    moved = base_dir().joinpath(*path.parts[-3:])
    return moved if moved.exists() and not path.exists() else path


def now() -> str:
    """The time in UTC, as stamps have it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _has_texts(item: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(item, Mapping) and all(isinstance(item.get(key), str) for key in keys)


def _read_section(path: Path) -> dict[str, Any]:
    record = read_json(path)
    whole = isinstance(record, dict) and {"timestamp", "process_seconds", "values"} <= record.keys()
    if not whole or not isinstance(record["values"], dict):
        raise UserError(f"{path} is not a report section; delete it and run its stage again")
    return record


def _read_stamps(pattern: str, suffix: str, *more: str) -> dict[str, dict[str, Any]]:
    """By stage, in the order in which they ended."""
    folder, read = base_dir() / "stages", []
    for path in folder.glob(pattern):
        stamp = read_json(path)
        if not isinstance(stamp, dict) or not {"stage", "command", "seconds", "finished", *more} <= stamp.keys():
            raise UserError(f"{path} is not a stage stamp; delete it and run its stage again")
        read.append((stamp["finished"], path.stat().st_mtime_ns, path.name.removesuffix(suffix), stamp))  # `finished` is whole seconds
    return {name: stamp for *_, name, stamp in sorted(read, key=lambda item: item[:2])}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
