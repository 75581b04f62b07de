"""Report inputs: the stages of a recipe, the sections they leave, the runner's stamps, and the metrics files of runs.

$NANOCHAT_BASE_DIR/report/<section>.json   section of a stage
$NANOCHAT_BASE_DIR/stages/<stage>.json     the runner's stamp: {"stage", "command", "seconds", "finished"}
$NANOCHAT_BASE_DIR/stages/<stage>.failed   the same with {"code"} if the stage failed; removed when it starts again
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nanochat.common import UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.report.environment import process_seconds
from nanochat.report.figures import check_chart
from nanochat.tracking.sinks import redact_all

MEMORY = "_mc"  # suffix of the sections and stages of a run with a memory
CHECK = "check"  # section of `nanochat.report check`
_LAYOUT_KEYS, _SAMPLE_KEYS = ("title", "text"), ("prompt", "text")


class Stage(NamedTuple):
    """Stage of a recipe and the section it leaves; `trains` is the prefix of its checkpoint folder."""

    name: str
    section: str
    trains: str | None = None
    required: bool = True
    of_model: bool = True  # false: shared by the runs with and without a memory
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
    Stage("mc_eval", "long_context", required=False, memory_only=True),
)


@dataclass(frozen=True)
class Entry:
    """Stage of one run with its section and its stamps, each None if missing."""

    stage: Stage
    ending: str  # "" or `MEMORY`
    section: Mapping[str, Any] | None
    stamp: Mapping[str, Any] | None
    failure: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """Name of the stage for the runner."""
        return self.stage.name + self.ending * self.stage.of_model

    @property
    def section_name(self) -> str:
        """Name of its section."""
        return self.stage.section + self.ending * (self.stage.of_model and not self.stage.memory_only)

    @property
    def values(self) -> Mapping[str, Any]:
        """Reported values; empty if there are none."""
        return {} if self.section is None else self.section["values"]

    @property
    def state(self) -> Literal["done", "failed", "stopped", "missing"]:
        """done, failed, stopped or missing. A stage run by hand has no stamp; it is done if it has a section."""
        if self.failure is not None and self.failure["finished"] >= (self.stamp["finished"] if self.stamp else ""):
            return "stopped" if self.failure["code"] in (130, 143, 129) else "failed"
        return "done" if self.section is not None else "missing"

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the stage; for a stage run by hand, until it reported."""
        return self._last_stamp["seconds"] if self._last_stamp else self.section["process_seconds"] if self.section else None

    @property
    def finished(self) -> str:
        """End of the stage in UTC; empty if it has not ended."""
        return self._last_stamp["finished"] if self._last_stamp else self.section["timestamp"] if self.section else ""

    @property
    def _last_stamp(self) -> Mapping[str, Any] | None:
        return self.failure if self.state in ("failed", "stopped") else self.stamp


@dataclass(frozen=True)
class ReportedRun:
    """Stages of one model, with a memory or without."""

    ending: str
    entries: tuple[Entry, ...]

    def values(self, section: str) -> Mapping[str, Any]:
        """Values of the section with this name, which is given without its ending."""
        return next(entry.values for entry in self.entries if entry.stage.section == section)

    @property
    def tag(self) -> str:
        """Model tag, if any stage has reported it; else the kind of run."""
        for entry in self.entries:
            if tag := entry.values.get("model tag"):
                return tag
            if isinstance(model := entry.values.get("model"), str):
                return model.partition(",")[0]
        return "MegaContext" if self.ending else "baseline"


@dataclass(frozen=True)
class Collected:
    """Report inputs found in the base folder."""

    sections: Mapping[str, Mapping[str, Any]]
    stamps: Mapping[str, Mapping[str, Any]]  # in the order in which they ended
    shared: tuple[Entry, ...]
    runs: tuple[ReportedRun, ...]  # the baseline before the one with a memory

    @property
    def entries(self) -> list[Entry]:
        """Every stage of every run in the order of the recipe."""
        known = [*self.shared, *(entry for run in self.runs for entry in run.entries)]
        return sorted(known, key=lambda entry: RECIPE.index(entry.stage))

    @property
    def missing(self) -> list[str]:
        """Required stages that have not reported."""
        return [entry.name for entry in self.entries if entry.stage.required and entry.section is None]


def section(name: str, values: Mapping[str, Any]) -> None:
    """Records the section of a stage, replacing an earlier one.

    `values` is JSON: scalars and nests become tables; `samples`, a list of `{"prompt", "text"}`, and `layouts`, one of
    `{"title", "text"}`, become text blocks; `metrics_file`, the path of a metrics.jsonl, becomes a figure, compared with
    `baseline_metrics_file` if given; each of `charts` (see `figures.check_chart`) becomes a figure. Non-finite numbers become strings.

    Raises `ValueError` for invalid samples, layouts and charts.
    """
    for chart in values.get("charts", ()):
        check_chart(chart)
    for key, wanted in (("samples", _SAMPLE_KEYS), ("layouts", _LAYOUT_KEYS)):
        for item in values.get(key, ()):
            if not _has_texts(item, wanted):
                raise ValueError(f"invalid {key} {item!r}; expected {{{', '.join(f'{name!r}: str' for name in wanted)}}}")
    record = {"section": name, "timestamp": now(), "process_seconds": process_seconds(), "values": _finite(redact_all(values))}
    write_json(ensure_dir(sections_folder()) / f"{name}.json", record)


def collect() -> Collected:
    """Reads all sections and stamps. Raises `UserError` naming a broken one."""
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
    runs = tuple(ReportedRun(e, tuple(entry(s, e) for s in of_model if bool(e) >= s.memory_only)) for e in endings)
    return Collected(sections, stamps, tuple(entry(stage, "") for stage in RECIPE if not stage.of_model), runs)


def sections_folder() -> Path:
    """Folder of the sections."""
    return base_dir() / "report"


def run_file(recorded: str) -> Path:
    """Current path of a file of a run that was recorded at `recorded`: the base folder may have been moved since."""
    path = Path(recorded)
    moved = base_dir().joinpath(*path.parts[-3:])
    return moved if moved.exists() and not path.exists() else path


def now() -> str:
    """Time in UTC, in the format of stamps."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _has_texts(item: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(item, Mapping) and all(isinstance(item.get(key), str) for key in keys)


def _read_section(path: Path) -> dict[str, Any]:
    record = read_json(path)
    whole = isinstance(record, dict) and {"timestamp", "process_seconds", "values"} <= record.keys()
    if not whole or not isinstance(record["values"], dict):
        raise UserError(f"invalid report section {path}; delete it and run its stage again")
    return record


def _read_stamps(pattern: str, suffix: str, *more: str) -> dict[str, dict[str, Any]]:
    """Stamps by stage, in the order in which they ended."""
    folder, read = base_dir() / "stages", []
    for path in folder.glob(pattern):
        stamp = read_json(path)
        if not isinstance(stamp, dict) or not {"stage", "command", "seconds", "finished", *more} <= stamp.keys():
            raise UserError(f"invalid stage stamp {path}; delete it and run its stage again")
        read.append((stamp["finished"], path.stat().st_mtime_ns, path.name.removesuffix(suffix), stamp))  # `finished` is whole seconds
    return {name: stamp for *_, name, stamp in sorted(read, key=lambda item: item[:2])}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
