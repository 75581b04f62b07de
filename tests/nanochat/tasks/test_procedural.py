"""What holds for every task that is made by rule."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.infer.calculator import calculate
from nanochat.tasks.mixtures import MIXTURES
from nanochat.tasks.procedural import Drawn, Procedural
from nanochat.tasks.registry import PROCEDURAL, open_task
from nanochat.tasks.task import check_conversation, dialogue, reference

SPECS = sorted(
    {
        *PROCEDURAL, "spelling:words=simple:syllables=3", "spellingbee:how=tool", "spellingbee:how=spelled", "arithmetic:terms=4:digits=1",
        "compare:digits=1", "lists:do=sort:items=3", "recall:facts=1:filler=0:digits=2", "gym:basic_arithmetic:max_terms=3",
        "gym:family_relationships", "gym:spell_backward",
        *(i.spec for parts in MIXTURES.values() for i in parts if i.spec.partition(":")[0] in {*PROCEDURAL, "gym"}),
    }
)  # fmt: skip


def question(conversation: dict) -> str:
    return conversation["messages"][0]["content"]


@pytest.mark.parametrize("spec", SPECS)
def test_an_example_is_a_function_of_task_split_seed_and_number(spec: str) -> None:
    task, again = open_task(spec, "train", 3), open_task(spec, "train", 3)
    backwards = [again[i] for i in reversed(range(30))][::-1]
    assert backwards == [task[i] for i in range(30)]
    assert task[10**12] == again[10**12]
    for other in (open_task(spec, "train", 4), open_task(spec, "test", 3)):
        assert [other[i] for i in range(30)] != backwards
        assert other.fingerprint != task.fingerprint == again.fingerprint
    assert len({json.dumps(task[i], default=str) for i in range(30)}) > 15


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_tested_was_not_trained_for(spec: str) -> None:
    """Whatever the seeds."""
    slow = "gym" in spec or "recall" in spec
    train, test = open_task(spec, "train", 0), open_task(spec, "test", 1)
    trained = {question(train[i]) for i in range(300 if slow else 3000)}
    tested = {question(test[i]) for i in range(100)}
    assert not trained & tested and len(tested) > 20


@pytest.mark.parametrize("spec", SPECS)
def test_the_reference_answer_is_right_and_others_are_not(spec: str) -> None:
    task = open_task(spec, "test", 0)
    for i in range(40):
        conversation = task[i]
        check_conversation(conversation)
        answer = reference(conversation)
        assert task.kind == "generative" and task.grade(conversation, answer) == 1
        assert task.grade(conversation, f" {answer}\n") == 1
        # What else a reply may say in small talk, or to a scorer of the library, is theirs.
        exact = [] if spec in ("identity", "smalltalk") or "gym" in spec else [answer[:-1], f"{answer} 17 x"]
        for wrong in ("", " ", "I do not know.", "zzz", *exact):
            assert task.grade(conversation, wrong) < 1, (wrong, conversation)


@pytest.mark.parametrize("spec", [s for s in SPECS if "arithmetic" in s or "spellingbee" in s])
def test_what_a_tool_is_said_to_answer_is_what_it_answers(spec: str) -> None:
    task = open_task(spec, "train", 0)
    calls = 0
    for i in range(200):
        content = task[i]["messages"][-1]["content"]
        if isinstance(content, list):
            (code, output), calls = [part["text"] for part in content[:2]], calls + 1
            assert [part["type"] for part in content] == ["python", "python_output", "text"]
            assert calculate(code) == output
    assert (calls > 0) == (spec not in ("spellingbee:how=spelled", "gym:basic_arithmetic:max_terms=3"))


def test_examples_do_not_depend_on_the_process(root: Path) -> None:
    code = """
import hashlib, json
from nanochat.tasks.registry import open_task
tasks = [open_task(spec, "test", 5) for spec in ("identity", "spellingbee", "arithmetic:terms=3", "lists", "recall")]
print(hashlib.sha256(json.dumps([task[i] for task in tasks for i in range(50)]).encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    tasks = [open_task(spec, "test", 5) for spec in ("identity", "spellingbee", "arithmetic:terms=3", "lists", "recall")]
    assert digests == {hashlib.sha256(json.dumps([task[i] for task in tasks for i in range(50)]).encode()).hexdigest()}


def test_there_is_no_example_before_the_first() -> None:
    with pytest.raises(IndexError):
        open_task("lists", "train", 0)[-1]


class Few(Procedural):
    """One question."""

    label = "few"

    def draw(self, rng: random.Random) -> Drawn:
        return Drawn("only", dialogue("?", "!"))


def test_a_task_with_too_few_questions_says_so_instead_of_searching_for_ever() -> None:
    splits = {split: Few(split=split) for split in ("train", "test")}
    with pytest.raises(UserError, match="few has too few different examples for a (train|test) split"):
        [task[0] for task in splits.values()]
