"""CORE's tasks in the format of the DCLM bundle (arXiv 2406.11794), and how their examples become prompts.

    eval_bundle/core.yaml             the tasks: label, dataset, kind, few-shot examples, delimiter
    eval_bundle/eval_meta_data.csv    what guessing scores in each task, in percent
    eval_bundle/eval_data/….jsonl     the examples, one JSON object per line

Three kinds: `multiple_choice` (one query, several choices), `schema` (several contexts, one continuation) and
`language_modeling` (one context, one continuation to be produced exactly). Everything that chance decides, which examples
are taken and which are shown before another, is drawn as in karpathy/nanochat, so that scores compare with published ones.
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

from nanochat.common import UserError, base_dir
from nanochat.data.tokenizer import Tokenizer

FOLDER = "eval_bundle"
GET_IT = "python -m nanochat.core_eval download"
SUBSET_SEED = 1337  # orders the examples before the first `max_examples` are taken
FEWSHOT_SEED = 1234  # plus the number of the example: draws the examples shown before it

CoreTaskType = Literal["multiple_choice", "schema", "language_modeling"]
# The keys of an example: where there is a `gold`, it is the index of the right one in the list under the first key.
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
        """The examples in the order they are numbered, at most `max_examples` of them (−1: all).

        Raises `UserError` where the file is missing or a line is no example of this kind.
        """
        examples = []
        for number, line in enumerate(_read(self.path).split("\n"), start=1):  # not splitlines: texts may hold U+2028
            if line.strip():
                examples.append(_parse(line, self.kind, f"{self.path} line {number}"))
        random.Random(SUBSET_SEED).shuffle(examples)
        examples = examples if max_examples < 0 else examples[:max_examples]
        if len(examples) <= self.shots:
            raise UserError(f"{self.label} shows {self.shots} examples before each, but {len(examples)} are to be used in all; use more")
        return examples


@dataclass(frozen=True)
class Option:
    """A candidate: `tokens` as a whole, of which those from `start` on are scored."""

    tokens: list[int]
    start: int


def bundle_folder() -> Path:
    """Where the bundle is expected."""
    return base_dir() / FOLDER


def bundle_is_here() -> bool:
    """Whether the bundle was downloaded."""
    return (bundle_folder() / "core.yaml").exists()


def read_tasks(folder: Path) -> list[CoreTask]:
    """The tasks of the bundle in `folder`. Raises `UserError` where it is not there or not whole."""
    import yaml

    if not (folder / "core.yaml").exists():
        raise UserError(f"the CORE bundle is not here ({folder}); get it so: {GET_IT}")
    baselines = _read_baselines(folder / "eval_meta_data.csv")
    try:
        listed = yaml.safe_load(_read(folder / "core.yaml"))["icl_tasks"]
        tasks = [_task(entry, baselines, folder / "eval_data") for entry in listed]
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{folder / 'core.yaml'} is no list of tasks ({_first_line(error)}); delete {folder} and run {GET_IT}") from error
    if not tasks:
        raise UserError(f"{folder / 'core.yaml'} lists no task; delete {folder} and run {GET_IT}")
    return tasks


def fewshot(examples: Sequence[dict[str, Any]], index: int, shots: int) -> list[dict[str, Any]]:
    """The `shots` examples shown before example `index`: others, drawn by its number."""
    drawn = random.Random(FEWSHOT_SEED + index).sample(range(len(examples) - 1), shots)
    return [examples[i + (i >= index)] for i in drawn]


def options(task: CoreTask, tokenizer: Tokenizer, examples: Sequence[dict[str, Any]], index: int) -> list[Option]:
    """The candidates of example `index`, in their order; of a `language_modeling` task, the one text to be produced.

    What is scored is what the candidates do not share, and at least one token of each, also where one text begins another.
    """
    example, shown = examples[index], fewshot(examples, index, task.shots)
    d = task.delimiter
    if task.kind == "multiple_choice":
        before = "".join(f"{shot['query']}{d}{shot['choices'][shot['gold']]}\n\n" for shot in shown)
        prompts = [f"{before}{example['query']}{d}{choice}" for choice in example["choices"]]
    elif task.kind == "schema":
        before = "".join(f"{shot['context_options'][shot['gold']]}{d}{shot['continuation']}\n\n" for shot in shown)
        prompts = [f"{before}{context}{d}{example['continuation']}" for context in example["context_options"]]
    else:
        before = "".join(f"{str(shot['context']).strip()}{d}{shot['continuation']}\n\n" for shot in shown)
        prompt = f"{before}{str(example['context']).strip()}{d}"
        # Stripped, because a space at the end belongs to the first token of what follows.
        prompts = [f"{prompt}{example['continuation']}", prompt.strip()]
    rows = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    if task.kind == "language_modeling":
        whole, prompt = rows
        return [Option(whole, min(_common(whole, prompt), len(whole) - 1))]
    if task.kind == "multiple_choice":
        start = min(_common(*rows), min(len(row) for row in rows) - 1)
        return [Option(row, start) for row in rows]
    same = _common(*(row[::-1] for row in rows))
    return [Option(row, max(1, len(row) - same)) for row in rows]


def _common(*rows: list[int]) -> int:
    """How many tokens all rows begin with in common."""
    shortest = min(len(row) for row in rows)
    return next((i for i in range(shortest) if any(row[i] != rows[0][i] for row in rows)), shortest)


def _task(entry: dict[str, Any], baselines: dict[str, float], data: Path) -> CoreTask:
    label, kind = entry["label"], entry["icl_task_type"]
    path = data / entry["dataset_uri"]
    if kind not in _KEYS:
        raise UserError(f"{data.parent / 'core.yaml'}: {label} is of the unknown kind {kind!r}; there are {', '.join(_KEYS)}")
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
        raise UserError(f"{path} is no table of random baselines ({error!r}); delete {path.parent} and run {GET_IT}") from error


def _parse(line: str, kind: CoreTaskType, where: str) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); the bundle is damaged, delete it and run {GET_IT}") from error
    if not (isinstance(example, dict) and all(key in example for key in _KEYS[kind])) or not _gold_fits(example, kind):
        raise UserError(f"{where}: no example of a {kind} task, which has {', '.join(_KEYS[kind])}; delete the bundle and run {GET_IT}")
    return example


def _gold_fits(example: dict[str, Any], kind: CoreTaskType) -> bool:
    several, gold = example[_KEYS[kind][0]], example.get("gold", 0)
    return kind == "language_modeling" or (isinstance(several, list) and isinstance(gold, int) and 0 <= gold < len(several))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({_first_line(error)}); the bundle is not whole, delete it and run {GET_IT}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
