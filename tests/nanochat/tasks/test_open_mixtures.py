"""Mixtures of the stages, with data sets and without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.tasks.mixtures import EVALUATIONS, MIXTURES, PartSpec, evaluation_tasks, open_mixtures, open_splits, parse
from nanochat.tasks.registry import HUB
from nanochat.tasks.task import check_conversation
from tests.helpers.hub_files import GSM8K, SMOLTALK, write_lines, write_parquet


def asked(mixture) -> list[str]:
    return [str(c["messages"]) for c in mixture]


@pytest.mark.parametrize("stage", ["mid", "sft"])
def test_without_the_hub_the_procedural_tasks_are_there_and_the_others_are_said_to_be_left_out(stage: str) -> None:
    said: list[str] = []
    train, held_out = open_mixtures(stage, 3, said.append, offline=True)
    wanted = [part.spec for part in MIXTURES[stage]]
    here = [spec for spec in wanted if spec not in HUB]
    assert [part.task.name for part in train.parts] == [part.task.name for part in held_out.parts] == here
    assert set(train.left_out) == set(held_out.left_out) == set(wanted) & set(HUB) != set()
    assert len(said) == len(train.left_out) and all("is left out" in line and "gsm8k:PATH" in line for line in said if "gsm8k" in line)
    for mixture in (train, held_out):
        for i in range(0, 2 * len(mixture), len(mixture) // 20):
            check_conversation(mixture.at(i))


def test_the_demo_needs_nothing_and_holds_out_what_it_does_not_train_on() -> None:
    train, held_out = open_mixtures("demo", 0, pytest.fail)
    assert not train.left_out and len(train) == sum(part.count for part in MIXTURES["demo"])
    assert len(train) // 25 < len(held_out) < len(train) // 15
    questions = {train[i]["messages"][0]["content"] for i in range(8000)}
    assert not questions & {c["messages"][0]["content"] for c in held_out}
    assert train.fingerprint == open_mixtures("demo", 0)[0].fingerprint != open_mixtures("demo", 1)[0].fingerprint


def test_a_mixture_of_ones_own() -> None:
    assert parse("gsm8k*2, spelling@50 ,customjson:a b.jsonl,lists:do=copy:items=3@7") == [
        PartSpec("gsm8k", 2),
        PartSpec("spelling", count=50),
        PartSpec("customjson:a b.jsonl"),
        PartSpec("lists:do=copy:items=3", count=7),
    ]
    train, held_out = open_mixtures("spelling@30,lists@20", 0, pytest.fail)
    assert [len(part) for part in train.parts] == [30, 20] and len(held_out) == 100


def test_a_file_that_is_both_splits_is_divided(tmp_path: Path) -> None:
    lines = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}] for i in range(50)]
    train, held_out = open_mixtures(f"customjson:{write_lines(tmp_path / 'my.jsonl', lines)}*2", 0, pytest.fail)
    assert len(train) == 96 and len(held_out) == 2
    assert len(set(asked(train))) == 48 and set(asked(train)).isdisjoint(asked(held_out))
    assert {*asked(train), *asked(held_out)} == {str(line) for line in lines}
    assert train.fingerprint != held_out.fingerprint


def test_a_folder_with_both_splits_is_not(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", GSM8K[:2])
    write_lines(tmp_path / "test.jsonl", GSM8K[2:])
    train, held_out = open_mixtures(f"gsm8k:{tmp_path}", 0, pytest.fail)
    assert (len(train), len(held_out)) == (2, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' names no task; give a mixture (mid, sft, memory, demo) or tasks"),
        (" , ", "names no task"),
        ("lists@0", "lists@0: take at least one conversation of lists"),
        (f"lists@{'9' * 5000}", "of lists, and at most 100,000,000"),
        ("lists*999999999", "of lists, and at most 100,000,000"),
        ("lists,demo", "demo: demo is a whole mixture; give it alone, or tasks"),
        ("lists*0", "take at least one"),
        ("spelling,listz", "there is no task 'listz'; did you mean lists"),
        ("gsm8k", "gsm8k (openai/gsm8k) is not on this machine"),
        ("humaneval", "humaneval has no train split"),
        ("FILE", "too few conversations to hold some out"),
    ],
)
def test_what_is_asked_for_by_name_is_there_or_one_line_says_why_not(text: str, why: str, tmp_path: Path) -> None:
    text = text.replace("FILE", f"gsm8k:{write_lines(tmp_path / 'x.jsonl', GSM8K)}")
    with pytest.raises(UserError, match=re.escape(why)) as error:
        open_mixtures(text, 0, pytest.fail, offline=True)
    assert "\n" not in str(error.value)


def test_what_is_evaluated() -> None:
    said: list[str] = []
    tasks, left_out = evaluation_tasks("auto", 0, said.append, offline=True)
    assert set(left_out) == {"arc-easy", "arc-challenge", "mmlu", "gsm8k"} and len(said) == 4
    assert [task.name for task in tasks] == [spec for spec in EVALUATIONS["auto"] if spec not in HUB]
    demo, left_out = evaluation_tasks("demo", 0, pytest.fail)
    assert [task.name for task in demo] == [part.spec for part in MIXTURES["demo"]] and not left_out
    assert all(task.split == "test" for task in demo)


def test_what_cannot_be_graded_here_is_left_out_of_a_list_and_refused_by_name() -> None:
    def check(task) -> None:
        if task.name == "humaneval":
            raise UserError("no isolation")

    tasks, left_out = evaluation_tasks("auto", 0, lambda _: None, check, offline=True)
    assert left_out["humaneval"] == "no isolation" and "humaneval" not in [task.name for task in tasks]
    with pytest.raises(UserError, match="no isolation"):
        evaluation_tasks("humaneval,lists", 0, pytest.fail, check)


def test_how_many_are_asked_is_no_part_of_a_task_to_evaluate() -> None:
    for text in ("lists@5", "lists,compare*2"):
        with pytest.raises(UserError, match="by --max-problems, not by . or @"):
            evaluation_tasks(text, 0, pytest.fail)


def test_what_has_no_grade_is_not_evaluated(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "test.parquet", SMOLTALK)
    with pytest.raises(UserError, match="smoltalk:.* cannot be graded"):
        evaluation_tasks(f"smoltalk:{path}", 0, pytest.fail)


def test_a_path_may_have_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a comma, in the name.jsonl", "a", "b,spelling@2", "c.jsonl"):
        (tmp_path / name).touch()
    assert parse("spelling@3, customjson:a comma, in the name.jsonl*2,lists") == [
        PartSpec("spelling", count=3),
        PartSpec("customjson:a comma, in the name.jsonl", 2),
        PartSpec("lists"),
    ]
    assert parse(f"customjson:{tmp_path}/a,lists") == [PartSpec(f"customjson:{tmp_path}/a"), PartSpec("lists")]
    assert parse("customjson:b,spelling@2") == [PartSpec("customjson:b,spelling@2")], "the name of a file, not a count"
    assert parse("customjson:c.jsonl@2,gsm8k") == [PartSpec("customjson:c.jsonl", count=2), PartSpec("gsm8k")]
    assert len(parse("customjson:a," + ",".join(f"lists@{i}" for i in range(1, 60)))) == 60, "all together are too long for a name"
    assert parse("customjson:nothing, here") == [PartSpec("customjson:nothing"), PartSpec("here")]


def test_a_file_that_was_trained_on_is_evaluated_where_it_was_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": str(i)} for i in range(40)]
    spec = f"customjson:{write_lines(tmp_path / 'my.jsonl', rows)}"
    _, held_out = open_splits(spec, 0)
    for trained_on, asked_for in (((), 40), (("demo", spec), 2), ((f"lists,{spec}*2",), 2)):
        ((task,), _) = evaluation_tasks(spec, 0, pytest.fail, trained_on=trained_on)
        assert len(task) == asked_for
    assert [task[i] for i in range(2)] == [held_out[i] for i in range(2)]
    assert task.grade(task[0], f" {19}.") == 1 and task.grade(task[0], "20") == 0


def test_what_is_left_out_is_said_once_and_in_the_report(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": None if i == 3 else "a", "id": i + 1} for i in range(40)]
    spec, said = f"customjson:{write_lines(tmp_path / 'my.jsonl', rows)}", []
    train, _ = open_mixtures(spec, 0, said.append)
    why = f"39 conversations; left out: 1 of 40 rows without a reply to learn ({tmp_path}/my.jsonl, line 4); fields not read: id (40)"
    assert said == [f"{spec}: {why}"]
    assert train.describe()["left_out"] == {spec: why}
