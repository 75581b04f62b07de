"""The tasks out of data sets: rows in the real schema become the conversations they should, and replies are graded strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nanochat.common import UserError
from nanochat.tasks.dataset_task import TableTask
from nanochat.tasks.registry import HUB, open_task
from nanochat.tasks.task import reference
from tests.helpers.hub_files import ARC, GSM8K, MMLU, SMOLTALK, write_lines, write_parquet


def task_of(folder: Path, name: str, rows: list[dict[str, Any]], split: str = "test"):
    """The task whose data are `rows`, as parquet as on the hub."""
    return open_task(f"{name}:{write_parquet(folder / 'data.parquet', rows)}", split, 0)


def test_arc_letters_its_choices(tmp_path: Path) -> None:
    task = task_of(tmp_path, "arc-easy", ARC)
    assert task.kind == "categorical" and len(task) == 2
    assert task[0]["messages"][0]["content"] == "Which is a fruit?\nA) stone\nB) pear\nC) rain\nD) sand\nAnswer with one letter."
    assert (reference(task[0]), task[0]["letters"], task.chance(task[0])) == ("B", ["A", "B", "C", "D"], 0.25)
    assert (reference(task[1]), task[1]["letters"], task.chance(task[1])) == ("A", ["A", "B", "C"], pytest.approx(1 / 3))
    assert task.grade(task[1], "A") == 1 and task.grade(task[1], "1") == task.grade(task[1], "B") == 0
    assert open_task(f"arc-challenge:{tmp_path / 'data.parquet'}", "train", 0)[0] == task[0]


def test_mmlu_takes_rows_of_both_of_its_schemas(tmp_path: Path) -> None:
    task = task_of(tmp_path, "mmlu", MMLU)
    assert [reference(c) for c in task] == ["B", "D"] and task[1]["subject"] == "geography"
    nested = task_of(tmp_path, "mmlu", [{"train": row} for row in MMLU], "train")
    assert [c["messages"] for c in nested] == [c["messages"] for c in task]


def test_gsm8k_calls_the_calculator_where_its_tags_are(tmp_path: Path) -> None:
    task = task_of(tmp_path, "gsm8k", GSM8K)
    assert task[0]["messages"][1]["content"] == [
        {"type": "text", "text": "She sold 48/2 = "},
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24 clips in May.\nIn all 48+24 = "},
        {"type": "python", "text": "48+24"},
        {"type": "python_output", "text": "72"},
        {"type": "text", "text": "72.\n#### 72"},
    ]
    assert task[2]["messages"][1]["content"] == [{"type": "text", "text": "Two.\n#### 2"}]
    assert [task.grade(c, reference(c)) for c in task] == [1, 1, 1]


@pytest.mark.parametrize("reply", ["#### 1000", "So\n#### 1,000.", "#### $1,000", "#### 7 wait\n#### 1000.00", "####1000"])
def test_gsm8k_takes_the_number_after_the_last_mark(tmp_path: Path, reply: str) -> None:
    task = task_of(tmp_path, "gsm8k", GSM8K)
    assert task.grade(task[1], reply) == 1


@pytest.mark.parametrize("reply", ["1000", "", "####", "#### 100", "#### 1000 #### 7", "#### 1000 or 2000", "#### 10,00", "### 1000"])
def test_gsm8k_takes_nothing_else(tmp_path: Path, reply: str) -> None:
    task = task_of(tmp_path, "gsm8k", GSM8K)
    assert task.grade(task[1], reply) == 0


def test_smoltalk_ends_with_the_assistant(tmp_path: Path) -> None:
    task = task_of(tmp_path, "smoltalk", SMOLTALK, "train")
    assert task.kind == "chat"
    assert [[m["role"] for m in c["messages"]] for c in task] == [["system", "user", "assistant"], ["user", "assistant"]]
    with pytest.raises(ValueError, match="cannot be graded"):
        task.grade(task[0], "Hello.")


WRONG = {
    "arc-easy": [{"question": "q"}, ARC[0] | {"answerKey": "E"}, ARC[0] | {"choices": {"text": ["a"], "label": ["B"]}}],
    "mmlu": [MMLU[0] | {"answer": 4}, MMLU[0] | {"answer": "x"}, {"choices": ["a", "b"], "answer": 0}, MMLU[0] | {"choices": None}],
    "gsm8k": [{"question": "q"}, {"question": "q", "answer": "72"}, {"question": None, "answer": "#### 1"}, ["no", "row"]],
    "smoltalk": [{"messages": []}, {"messages": "hi"}, {"messages": [{"role": "user", "content": "a"}]}, {"text": "a"}],
}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in WRONG.items() for row in rows])
def test_a_row_of_another_schema_is_one_line(tmp_path: Path, name: str, row: Any) -> None:
    path = write_lines(tmp_path / "x.jsonl", [row])
    with pytest.raises(UserError, match=re.escape(f"{path}, line 1, is not a row of {name}: ")) as error:
        open_task(f"{name}:{path}", "train", 0)
    assert "\n" not in str(error.value)


def test_a_bad_row_further_on_is_told_when_it_comes(tmp_path: Path) -> None:
    task = open_task(f"mmlu:{write_lines(tmp_path / 'x.jsonl', [MMLU[0], {}])}", "train", 0)
    with pytest.raises(UserError, match="line 2, is not a row of mmlu: it has no question"):
        task[1]


def test_unknown_tasks_and_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no task 'gsm9k'; did you mean gsm8k"):
        open_task("gsm9k", "train", 0)
    with pytest.raises(UserError, match="there is no task 'xyzzy'; there are arc-challenge, arc-easy"):
        open_task("xyzzy", "train", 0)
    with pytest.raises(ValueError, match="split is 'val'"):
        open_task("lists", "val", 0)
    assert all(issubclass(kind, TableTask) and kind.label == name for name, kind in HUB.items())
    assert set(HUB) == {"smoltalk", "mmlu", "arc-easy", "arc-challenge", "gsm8k"}
