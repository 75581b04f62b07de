"""A newcomer's questions lead from the README to the place that answers them, in two hops; see `tests.newcomer`."""

from __future__ import annotations

import pytest

from nanochat.common import ROOT
from tests.helpers.vault import README
from tests.newcomer import QUESTIONS, Question, defines, main, problem, table

TEXT = README.read_text(encoding="utf-8")
ROWS = table(TEXT)
FOLDERS = {folder for row in ROWS for folder in row.folders}
ROOMS = {
    str(path.parent.relative_to(ROOT))
    for package in ("nanochat", "mc")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
}
SCHEDULE = QUESTIONS[0]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_a_question_leads_to_its_answer(question: Question) -> None:
    assert problem(question, ROWS) == ""


def test_the_table_has_every_room() -> None:
    assert ROOMS <= FOLDERS
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def test_every_room_answers_a_question() -> None:
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS) >= 24
    assert {question.answer.partition("::")[0].rpartition("/")[0] for question in QUESTIONS} >= ROOMS


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"answer": "nanochat/schedule.py::lr_multiplier"}, "nanochat/schedule.py does not exist"),
        ({"answer": "nanochat/train/schedule.py::no_such"}, "nanochat/train/schedule.py does not define no_such"),
        ({"answer": "nanochat/train/trainer.py"}, "nanochat/train/trainer.py is not reached in two hops"),  # no key word in its sign
        ({"answer": "nanochat/markdown.py"}, "nanochat/markdown.py is not reached in two hops"),  # another row
        ({"keys": "trainer"}, "a key word is not in the question"),
    ],
)
def test_a_wrong_answer_is_found(change: dict[str, str], found: str) -> None:
    assert problem(SCHEDULE, ROWS) == "" and problem(SCHEDULE._replace(**change), ROWS) == found


def test_a_table_that_leads_nowhere_is_found() -> None:
    for text in ("", TEXT.replace("| `nanochat/train/` |", "| `nanochat/data/` |").replace("(<obsidian/Optimizer and schedules.md>)", "")):
        assert problem(SCHEDULE, table(text)) == "nanochat/train/schedule.py is not reached in two hops"


def test_names_are_those_that_a_module_defines() -> None:
    store = ROOT / "nanochat" / "checkpoint" / "store.py"
    assert all(defines(store, name) for name in ("CheckpointStore", "CheckpointStore.save", "_STEP"))
    assert not any(defines(store, name) for name in ("save", "Path", "CheckpointStore.no_such", "_STEP.save"))


def test_the_command_prints_the_way_to_each_answer(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(QUESTIONS) and lines[0].split(" → ")[1:] == [f"{'nanochat/train/':<38}", SCHEDULE.answer]
