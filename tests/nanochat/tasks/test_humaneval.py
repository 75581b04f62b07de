"""HumanEval: every problem with its own solution, and replies that must not pass, run in the real sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.tasks.humaneval import extract_code
from nanochat.tasks.registry import open_task
from nanochat.tasks.task import reference


@pytest.fixture(scope="module")
def task():
    return open_task("humaneval", "test", 0)


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def test_there_are_164_problems_to_be_tested_in(task) -> None:
    assert len(task) == 164 and task.kind == "generative"
    assert task[0]["messages"][0]["content"].endswith('"""\n```') and "has_close_elements" in task[0]["messages"][0]["content"]
    with pytest.raises(UserError, match="humaneval has no train split"):
        open_task("humaneval", "train", 0)
    with pytest.raises(UserError, match="humaneval takes no argument"):
        open_task("humaneval:x", "test", 0)


def test_right_solutions_pass_and_no_solution_does_not(task) -> None:
    """Among them one with a helper in the problem, and one that needs the problem's import."""
    numbers = [0, 32, 38]
    right = [reference(task[i]) for i in numbers]
    wrong = [block(task[i]["problem"]["prompt"] + "    return None") for i in numbers]
    assert task.grade_all([task[i] for i in numbers * 2], right + wrong) == [1, 1, 1, 0, 0, 0]


def test_what_the_problem_gives_is_there_without_being_repeated(task) -> None:
    """The import of problem 0, the helper of problem 38."""
    for i in (0, 38):
        whole = reference(task[i])
        alone = block(whole[whole.index(f"def {task[i]['problem']['entry_point']}(") :].removesuffix("```"))
        assert len(alone) < len(whole) and task.grade(task[i], alone) == 1


@pytest.mark.slow
def test_every_solution_passes(task) -> None:
    conversations = list(task)
    assert sum(task.grade_all(conversations, [reference(c) for c in conversations])) == 164


# A reply to problem 2, which wants the fractional part of a number.
RIGHT = "def truncate_number(number: float) -> float:\n    return number % 1.0"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        (RIGHT, 1),
        (block(RIGHT), 1),
        (f"Here it is:\n\n{block(RIGHT)}\nIt takes the rest.", 1),
        (block(RIGHT, ""), 1),
        (f"First a test:\n{block('print(truncate_number(3.5))')}\n{block(RIGHT)}", 1),
        (block("import math\n\n" + RIGHT.replace("number % 1.0", "math.modf(number)[0]")), 1),
        ("", 0),
        ("return number % 1.0", 0),
        (block(RIGHT.replace("truncate_number", "truncate")), 0),
        (block(RIGHT + "\n)"), 0),
        (f"```python\n{RIGHT}", 0),
        (block(RIGHT.replace("return number % 1.0", "raise SystemExit(0)")), 0),
        (block(RIGHT.replace("return number % 1.0", "import os; os._exit(0)")), 0),
        (block(RIGHT + "\n\nimport sys\nsys.exit(0)"), 0),
        (block(RIGHT.replace("% 1.0", "// 1.0")), 0),
    ],
)
def test_a_reply_passes_where_it_has_the_function_and_its_tests_run_to_their_end(task, reply: str, grade: float) -> None:
    assert task.grade(task[2], reply) == grade


def test_the_first_block_that_defines_the_function_counts() -> None:
    reply = f"{block('def other(): ...')}\n{block('def wanted(): return 1')}\n{block('def wanted(): return 2')}"
    assert extract_code(reply, "wanted") == "def wanted(): return 1\n"
    assert extract_code(block("class A:\n    def wanted(self): ..."), "wanted") is None
    assert extract_code("(" * 5000 + "wanted", "wanted") is None and extract_code("\0", "wanted") is None


def test_without_isolation_nothing_is_run_but_on_demand(root: Path) -> None:
    code = """
from nanochat.common import UserError
from nanochat.tasks.registry import open_task
from nanochat.tasks.task import reference
task = open_task("humaneval", "test", 0)
right = reference(task[2])
for ask in (task.check_grading, lambda: task.grade(task[2], right), lambda: task.grade_all([task[2]], [right])):
    try:
        print("ran", ask())
    except UserError as error:
        print("refused", error)
task.unsafe = True
task.check_grading()
print(task.grade(task[2], right))
"""
    environment = os.environ | {"PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True)
    *refused, graded = done.stdout.splitlines()
    assert len(refused) == 3 and all(line.startswith("refused ") for line in refused) and graded == "1.0"
    assert done.stderr.count("\n") == 1  # the warning of what runs without isolation
