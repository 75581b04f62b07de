"""No reply is run as code: what scorers that evaluate are given, and that no other scorer evaluates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat.tasks.reasoning_gym import Gym, reply_check
from nanochat.tasks.safe_eval import harmless_formula, harmless_to_eval
from nanochat.tasks.task import reference

EVALUATING = {
    "binary_matrix": harmless_to_eval,
    "n_queens": harmless_to_eval,
    "number_sorting": harmless_to_eval,
    "spiral_matrix": harmless_to_eval,
    "string_insertion": harmless_to_eval,
    "countdown": harmless_formula,
    "intermediate_integration": harmless_formula,
    "polynomial_multiplication": harmless_formula,
    "puzzle24": harmless_formula,
    "simple_integration": harmless_formula,
}
ATTACKS = [
    "__import__('os').system('touch {canary}')",
    "open('{canary}', 'w')",
    "[open('{canary}', 'w') for _ in '1']",
    "(lambda: open('{canary}', 'w'))()",
    "[].__class__.__base__.__subclasses__()",
    'sin(\'open("{canary}", "w")\')',
    'sin([\'open("{canary}", "w")\'])',
    'x*\'open("{canary}", "w")\'',
    'f\'{{open("{canary}", "w")}}\'',
    "4! + open('{canary}', 'w').fileno()",
    "0.[open('{canary}', 'w').fileno()]",
    "x[open('{canary}', 'w')]",
    "exec(\"open('{canary}', 'w')\")",
    "(y := open('{canary}', 'w'))",
    "9**9**9**9",
    "((((9**9)**9)**9)**9)**9",
    "99999999!",
    "2**(2**(2**(2**(2**9))))",
    "(x+1)**99999999",
    "exp(exp(exp(exp(9999))))",
    "1" * 100_000,
    "(" * 50_000,
    "[" * 500 + "]" * 500,
]


@pytest.fixture(scope="module")
def datasets() -> dict:
    from reasoning_gym.factory import DATASETS

    return DATASETS


def test_which_scorers_evaluate(datasets: dict) -> None:
    checks = {name: reply_check(data_class) for name, (data_class, _) in datasets.items()}
    assert {name: check for name, check in checks.items() if check} == EVALUATING


def test_nothing_else_in_the_library_evaluates_text(datasets: dict) -> None:
    """A new version of it may: then look at what its scorers do with a reply."""
    import reasoning_gym

    root = Path(reasoning_gym.__file__).parent
    calls = re.compile(r"(?<![\w.])(?:eval|exec|compile|__import__)\(|\b(?:parse_expr|sympify)\(")
    found = {path.stem for path in root.rglob("*.py") if calls.search(path.read_text(encoding="utf-8"))}
    # These evaluate what they have made themselves; the parser of propositional_logic and the compiler of bf are their own.
    themselves = {
        "Compiler",
        "codeio",
        "generators_00_49",
        "generators_50_99",
        "bitwise_arithmetic",
        "basic_arithmetic",
        "propositional_logic",
    }
    assert found == set(EVALUATING) | themselves


@pytest.mark.parametrize("name", EVALUATING)
def test_what_would_run_is_worth_nothing_and_right_answers_as_ever(name: str, tmp_path: Path) -> None:
    task, canary = Gym(dataset=name), tmp_path / "canary"
    for i in range(2):
        assert task.grade(task[i], reference(task[i])) == 1
    for attack in ATTACKS:
        assert task.grade(task[0], attack.replace("{canary}", str(canary)).replace("{{", "{").replace("}}", "}")) < 0.1
    assert not canary.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_no_formulas(attack: str) -> None:
    assert not harmless_formula(attack)


@pytest.mark.parametrize(
    "text", ["x**2/2 + C", "-3*x**3 + sin(x)", "(2*x + 3)**4/8", "exp(-x)*(x + 1)", "7", "x**(1/2)", "(4 + 4)*(6 - 3)"]
)
def test_formulas_pass(text: str) -> None:
    assert harmless_formula(text) and harmless_formula(f" {text}\n")


@pytest.mark.parametrize("text", ["ABCDE", "['1', '2']", "[[0, 1], [1, 0]]", "1 2 3", "_ Q _\nQ _ _", "-4", "0x1f", "hello world"])
def test_answers_pass(text: str) -> None:
    assert harmless_to_eval(text)


@pytest.mark.parametrize(
    "text", ["f()", "a.b", "[x for x in y]", "f'{x}'", "9**9", "1 if a else 2", "lambda: 0", "a[0]", "print"[:0] + "a + b"]
)
def test_code_does_not(text: str) -> None:
    assert not harmless_to_eval(text)


@example("_")
@example("2**_")
@given(st.text(max_size=60) | st.text("x123+-*/()[]'\"!.,f lambda:", max_size=40))
def test_no_text_makes_the_checks_fail(text: str) -> None:
    assert harmless_formula(text) in (True, False) and harmless_to_eval(text) in (True, False)
    if harmless_formula(text):
        assert not set(text) & set("'\"[]{}!_@;") and "lambda" not in text
