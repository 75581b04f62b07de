"""Calculator that a model can call: arithmetic on numbers and a few methods of strings, never Python's `eval`.

An expression is parsed by Python's own parser and walked; anything not on the lists below is refused. Sizes are bounded before
anything is computed, so that no expression takes long or much space.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

MAX_CHARS = 500  # of an expression
MAX_DIGITS = 100  # of an integer, in intermediate results too
MAX_BITS = MAX_DIGITS * 10 // 3
MAX_TEXT = 1000  # characters of a string

Value = int | float | bool | str

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# Method of a string → least and most number of arguments, which are strings.
METHODS = {"count": (1, 1), "find": (1, 1), "index": (1, 1), "lower": (0, 0), "upper": (0, 0), "strip": (0, 1), "replace": (2, 2)}
METHODS |= {"startswith": (1, 1), "endswith": (1, 1), "title": (0, 0)}
FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "abs": abs, "round": round, "min": min, "max": max}

_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\w,])")


class _Unknown(Exception):
    """The expression is not on the lists, or beyond the bounds."""


def calculate(expression: str) -> str | None:
    """The value of `expression` as text, or None if the calculator cannot evaluate it.

    It knows integers and decimal numbers (also 1,234,567) with + − * / // % **, signs, comparisons and parentheses; `len`,
    `abs`, `round`, `min`, `max`; strings with `+`, an index and the methods in `METHODS`. Results that are undefined, such as a
    division by zero, not finite or beyond the bounds are None too.
    """
    expression = expression.strip()
    # A backslash in a string could spell half of a surrogate pair, which is not text.
    if not expression or len(expression) > MAX_CHARS or "\\" in expression:
        return None
    if not re.search("['\"]", expression):
        # Commas group digits, but not in calls, where they separate arguments.
        expression = expression if re.search("[A-Za-z]", expression) else _THOUSANDS.sub(lambda m: m[0].replace(",", ""), expression)
    try:
        return str(_value(ast.parse(expression, mode="eval").body))
    except (_Unknown, SyntaxError, ValueError, TypeError, ArithmeticError, IndexError, RecursionError, MemoryError):
        # The last two are the parser's: deep nesting of parentheses.
        return None


def _value(node: ast.expr) -> Value:
    """The value of a part of an expression. Raises `_Unknown`, or what Python raises for the same."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return _bounded(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
            return _bounded(SIGNS[type(sign)](_number(_value(operand))))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return _arithmetic(op, _value(left), _value(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            return COMPARISONS[type(op)](_value(left), _value(right))
        case ast.Subscript(value=text, slice=index):
            text, index = _value(text), _value(index)
            if isinstance(text, str) and type(index) is int:
                return text[index]
        case ast.Call(func=ast.Attribute(value=text, attr=name), args=args, keywords=[]) if name in METHODS:
            text, given = _value(text), [_value(argument) for argument in args]
            least, most = METHODS[name]
            if isinstance(text, str) and least <= len(given) <= most and all(isinstance(argument, str) for argument in given):
                return _method(text, name, given)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in FUNCTIONS:
            given = [_value(argument) for argument in args]
            if name == "round" and len(given) == 2 and abs(_number(given[1])) > MAX_DIGITS:
                raise _Unknown
            return _bounded(FUNCTIONS[name](*given))
    raise _Unknown


def _arithmetic(op: ast.operator, left: Value, right: Value) -> Value:
    if isinstance(op, ast.Add) and isinstance(left, str) and isinstance(right, str):
        return _bounded(left + right)
    left, right = _number(left), _number(right)
    if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int) and (abs(left).bit_length() - 1) * right > MAX_BITS:
        raise _Unknown  # before it is computed
    value = ARITHMETIC[type(op)](left, right)
    if isinstance(value, complex):
        raise _Unknown
    return _bounded(value)


def _method(text: str, name: str, given: list[Any]) -> Value:
    if name == "replace" and (text.count(given[0]) + 1) * len(given[1]) + len(text) > MAX_TEXT:
        raise _Unknown
    return _bounded(getattr(text, name)(*given))  # `name` is one of METHODS


def _number(value: Value) -> int | float:
    if not isinstance(value, int | float):
        raise _Unknown
    return value


def _bounded(value: Value) -> Value:
    """`value` itself. Raises `_Unknown` if it is too large or not finite."""
    too_much = (
        (isinstance(value, str) and len(value) > MAX_TEXT)
        or (isinstance(value, int) and value.bit_length() > MAX_BITS)
        or (isinstance(value, float) and not math.isfinite(value))
    )
    if too_much or not isinstance(value, int | float | str):
        raise _Unknown
    return value
