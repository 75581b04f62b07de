"""The calculator: what it knows is what Python says, what it does not know is refused, and nothing takes long."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.infer.calculator import MAX_CHARS, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", "14"),
        (" (2 + 3) * 4 ", "20"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("10/4", "2.5"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("10**99", "1" + "0" * 99),
        ("1,234,567 + 1", "1234568"),
        ("12,50", None),  # no thousands
        ("1_000 * 2", "2000"),
        ("'strawberry'.count('r')", "3"),
        ('"a,b".count(",")', "1"),
        ("'Hello'.lower()", "hello"),
        ("len('Grüße')", "5"),
        ("'abc'[1]", "b"),
        ("'ab' + 'c'", "abc"),
        ("max(1, 23, 4)", "23"),
        ("round(2.567, 1)", "2.6"),
        ("3 > 2", "True"),
    ],
)
def test_expressions(expression: str, value: str | None) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "   ", "hello", "x + 1", "1 +", "1; 2", "a = 1", "[1, 2]", "(1, 2)", "{}", "lambda: 1", "1 if 2 else 3", "f'{1}'", "b'a'",
        "__import__('os').system('id')", "(1).__class__", "'a'.__class__.__mro__", "'a'.format('b')", "'{0.__class__}'.format(1)",
        "open('/etc/passwd')", "len", "'abc'.encode()", "'a'.join('bc')", "max(*'ab')", "round(1.5, ndigits=1)", "print(1)",
        "1/0", "1 % 0", "0 ** -1", "'abc'[9]", "'abc'.index('z')", "len(5)", "max(1, 'a')", "min()", "1j", "(-8) ** 0.5",
        "1e308 * 10", "1e999", "-1e999", "'\\ud800'", "\x00", "1\x002", "...", "None", "not 1", "~1", "1 << 9", "1 and 2", "1 < 2 < 3",
    ],
)  # fmt: skip
def test_what_is_not_known_is_none(expression: str) -> None:
    assert calculate(expression) is None


LONG = [
    "9**9**9", "9**9**9**9", "(9**99)**99", "2**2**2**2**2**2", "-(2**1000)", "1e300**1e300", "'a' * 10**9", "10**9 * 'a'",
    "(" * 400 + "1" + ")" * 400, "-" * 499 + "1", "1+" * 249 + "1", "[" * 300, "9" * MAX_CHARS, "1" * (MAX_CHARS + 1), "0.1" * 9999,
    "'" + "a" * 400 + "'.replace('a', 'aaaaaaaaaaaaaaaaaaaa').replace('a', 'aaaaaaaaa')",
    "round(1.5, 10**90)", "round(10**90, -10**90)",
    "*".join(["9**99"] * 60),
]  # fmt: skip


def test_nothing_takes_long() -> None:
    """In a process that can be killed: what is calculated in full would take hours and all memory, or overflow the stack."""
    program = (
        "import json, sys; from nanochat.infer.calculator import calculate; print(json.dumps([calculate(e) for e in json.load(sys.stdin)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=json.dumps(LONG), capture_output=True, text=True, timeout=60, check=True)
    assert all(result is None or len(result) <= 1000 for result in json.loads(done.stdout))


numbers = st.one_of(st.integers(0, 9999).map(str), st.floats(0.01, 999).map(lambda x: f"{x:.2f}"))
arithmetic = st.recursive(
    numbers,
    lambda e: st.tuples(e, st.sampled_from(["+", "-", "*", "/", "//", "%"]), e).map(lambda t: f"({t[0]} {t[1]} -{t[2]})"),
    max_leaves=9,
)


@settings(max_examples=200, deadline=None)
@given(arithmetic)
def test_arithmetic_is_pythons(expression: str) -> None:
    try:
        expected = str(eval(expression))
    except ZeroDivisionError:
        expected = None
    assert calculate(expression) == expected


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text(alphabet="0123456789+-*/%.,()'\" countlensabrgu_[]e\\", max_size=40)))
def test_any_text_is_survived_in_silence(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = calculate(text)
    assert result is None or isinstance(result, str)
