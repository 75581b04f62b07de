"""Tasks of CORE in the format of the DCLM bundle (arXiv 2406.11794), and prompts from their examples.

    eval_bundle/core.yaml             the tasks: label, dataset, kind, few-shot examples, delimiter
    eval_bundle/eval_meta_data.csv    accuracy of guessing in each task, in percent
    eval_bundle/eval_data/….jsonl     the examples, one JSON object per line

Three kinds: `multiple_choice` (one query, several choices), `schema` (several contexts, one continuation) and
`language_modeling` (one context, one continuation to be produced exactly). All random choices, of the examples and of the
few-shot examples, are those of karpathy/nanochat, so that scores compare with published ones.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.common import UserError, base_dir, first_line
from nanochat.data.tokenizer import Tokenizer

FOLDER = "eval_bundle"
GET_IT = "python -m nanochat.core_eval download"
SUBSET_SEED = 1337  # shuffles the examples before `max_examples` are taken
FEWSHOT_SEED = 1234  # plus the number of the example: draws its few-shot examples

CoreTaskType = Literal["multiple_choice", "schema", "language_modeling"]
# The keys of an example; `gold` is the index of the right option in the list under the first key.
_KEYS: dict[CoreTaskType, tuple[str, ...]] = {
    "multiple_choice": ("choices", "query", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}


@dataclass(frozen=True)
class CoreTask:
    """One task. `baseline` is the accuracy of guessing, 0 … 1; `path` holds the examples."""

    label: str
    kind: CoreTaskType
    path: Path
    shots: int
    delimiter: str
    baseline: float

    def examples(self, max_examples: int = -1) -> list[dict[str, Any]]:
        """At most `max_examples` examples (−1 = all) in shuffled order.

        Raises `UserError` if the file is missing or a line is not an example of this kind.
        """
        examples = []
        for number, line in enumerate(_read(self.path).split("\n"), start=1):  # not splitlines: texts may hold U+2028
            if line.strip():
                examples.append(_parse(line, self.kind, f"{self.path} line {number}"))
        random.Random(SUBSET_SEED).shuffle(examples)
        examples = examples if max_examples < 0 else examples[:max_examples]
        if len(examples) <= self.shots:
            raise UserError(f"{self.label} needs more than {self.shots} examples for {self.shots} shots, not {len(examples)}; use more")
        return examples


@dataclass(frozen=True)
class Option:
    """A candidate: all its `tokens`, of which those from `start` on are scored."""

    tokens: list[int]
    start: int


def bundle_folder() -> Path:
    """Folder of the bundle."""
    return base_dir() / FOLDER


def bundle_is_here() -> bool:
    """True if the bundle was downloaded."""
    return (bundle_folder() / "core.yaml").exists()


def read_tasks(folder: Path) -> list[CoreTask]:
    """The tasks of the bundle in `folder`. Raises `UserError` if it is missing or not whole."""
    import yaml

    if not (folder / "core.yaml").exists():
        raise UserError(f"no CORE bundle in {folder}; run {GET_IT}")
    baselines = _read_baselines(folder / "eval_meta_data.csv")
    try:
        listed = yaml.safe_load(_read(folder / "core.yaml"))["icl_tasks"]
        tasks = [_task(entry, baselines, folder / "eval_data") for entry in listed]
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{folder / 'core.yaml'} is not a list of tasks ({first_line(error)}); delete {folder} and run {GET_IT}") from error
    if not tasks:
        raise UserError(f"{folder / 'core.yaml'} has no tasks; delete {folder} and run {GET_IT}")
    return tasks


def fewshot(examples: Sequence[dict[str, Any]], index: int, shots: int) -> list[dict[str, Any]]:
    """The `shots` few-shot examples of example `index`: others, drawn by its number."""
    drawn = random.Random(FEWSHOT_SEED + index).sample(range(len(examples) - 1), shots)
    return [examples[i + (i >= index)] for i in drawn]


def options(task: CoreTask, tokenizer: Tokenizer, examples: Sequence[dict[str, Any]], index: int) -> list[Option]:
    """The candidates of example `index`, in order; of a `language_modeling` task, the one text to be produced.

    Scored is the part that the candidates do not share, at least one token of each even if one text is a prefix of another.
    """
    example = examples[index]
    before = "".join("".join(_parts(task, shot, shot.get("gold", 0))) + "\n\n" for shot in fewshot(examples, index, task.shots))
    if task.kind == "language_modeling":
        prompt, continuation = _parts(task, example, 0)
        whole = tokenizer.encode(f"{before}{prompt}{continuation}", bos=True)
        # Stripped, because a trailing space belongs to the first token of the continuation.
        shared = _common(whole, tokenizer.encode(f"{before}{prompt}".strip(), bos=True))
        return [Option(whole, min(shared, len(whole) - 1))]
    candidates = range(len(example[_KEYS[task.kind][0]]))
    rows = [tokenizer.encode(before + "".join(_parts(task, example, option)), bos=True) for option in candidates]
    if task.kind == "multiple_choice":
        start = min(_common(*rows), min(len(row) for row in rows) - 1)
        return [Option(row, start) for row in rows]
    same = _common(*(row[::-1] for row in rows))
    return [Option(row, max(1, len(row) - same)) for row in rows]


def _parts(task: CoreTask, example: dict[str, Any], option: int) -> tuple[str, str]:
    """The context of a candidate with the delimiter, and its continuation."""
    if task.kind == "multiple_choice":
        return f"{example['query']}{task.delimiter}", str(example["choices"][option])
    if task.kind == "schema":
        return f"{example['context_options'][option]}{task.delimiter}", str(example["continuation"])
    return f"{str(example['context']).strip()}{task.delimiter}", str(example["continuation"])


def _common(*rows: list[int]) -> int:
    """Length of the common prefix of all rows."""
    shortest = min(len(row) for row in rows)
    return next((i for i in range(shortest) if any(row[i] != rows[0][i] for row in rows)), shortest)


def _task(entry: dict[str, Any], baselines: dict[str, float], data: Path) -> CoreTask:
    label, kind = entry["label"], entry["icl_task_type"]
    path = data / entry["dataset_uri"]
    if kind not in _KEYS:
        raise UserError(f"{data.parent / 'core.yaml'}: unknown task type {kind!r} for {label}; expected one of {', '.join(_KEYS)}")
    if label not in baselines:
        raise UserError(f"{data.parent / 'eval_meta_data.csv'} has no random baseline for {label}")
    if not path.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{data.parent / 'core.yaml'}: the examples of {label} are outside of {data}")
    return CoreTask(label, kind, path, int(entry["num_fewshot"][0]), entry.get("continuation_delimiter", " "), baselines[label])


def _read_baselines(path: Path) -> dict[str, float]:
    try:
        rows = csv.DictReader(io.StringIO(_read(path)))
        return {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of random baselines ({error!r}); delete {path.parent} and run {GET_IT}") from error


def _parse(line: str, kind: CoreTaskType, where: str) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); the bundle is damaged, delete it and run {GET_IT}") from error
    if not (isinstance(example, dict) and all(key in example for key in _KEYS[kind])) or not _gold_fits(example, kind):
        raise UserError(f"{where}: invalid {kind} example; expected {', '.join(_KEYS[kind])}; delete the bundle and run {GET_IT}")
    return example


def _gold_fits(example: dict[str, Any], kind: CoreTaskType) -> bool:
    several, gold = example[_KEYS[kind][0]], example.get("gold", 0)
    return kind == "language_modeling" or (isinstance(several, list) and isinstance(gold, int) and 0 <= gold < len(several))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({first_line(error)}); the bundle is not whole, delete it and run {GET_IT}") from error
