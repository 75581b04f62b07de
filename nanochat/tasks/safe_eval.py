"""Allow-list of model replies that a third-party scorer may evaluate, so that text of a model is never run as code.

Some scorers of reasoning-gym call `eval` or sympy's `parse_expr` on a reply. Allowed replies can only compute numbers of a bounded
size: no names with a meaning of their own, no attributes, no text that is parsed a second time.
"""

from __future__ import annotations

import ast
import math
import warnings

MAX_CHARACTERS = 2_000
MAX_BITS = 10_000.0  # of any intermediate number
MAX_EXPONENT = 100
FUNCTIONS = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"})
GROWING = frozenset({"exp", "sinh", "cosh"})
_SIGNS = (ast.UAdd, ast.USub)


def harmless_to_eval(text: str) -> bool:
    """True if `text` is a literal or a lone name for `eval`, or a syntax error."""
    if len(text) > MAX_CHARACTERS:
        return False
    try:
        tree = _parse(text)
        if isinstance(tree, ast.Name):
            return True
        ast.literal_eval(tree)
    except SyntaxError:
        return True
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def harmless_formula(text: str) -> bool:
    """True if `text` is a formula of numbers, letters and common functions whose numbers stay small."""
    if len(text) > MAX_CHARACTERS:
        return False
    try:
        return _bits(_parse(text)) <= MAX_BITS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _parse(text: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes and literals
        return ast.parse(text.strip(), mode="eval").body


def _bits(node: ast.expr) -> float:
    """Bound on the size of the value in bits, above `MAX_BITS` if it may be large. Raises `ValueError` for anything but formulas."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if isinstance(node.value, float):
            return 64.0 if math.isfinite(node.value) else math.inf
        return float(node.value.bit_length())
    if _is_letter(node):
        return 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, _SIGNS):
        return _bits(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and len(node.args) == 1:
        if node.keywords:
            raise ValueError("a function with a named argument")
        bits = _bits(node.args[0])
        return 2.0 ** min(bits, MAX_EXPONENT) if node.func.id in GROWING else bits + 64.0
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            return _bits(node.left) + _bits(node.right) + 1.0
        if isinstance(node.op, ast.Pow):
            return _bits(node.left) * _exponent(node.right)
    raise ValueError(f"{type(node).__name__} is not part of a formula")


def _exponent(node: ast.expr) -> float:
    """Bound on an exponent; a letter, and a quotient of small numbers, as in a root, are small."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, _SIGNS):
        return _exponent(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value <= MAX_EXPONENT:
        return float(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return max(_exponent(node.left), _exponent(node.right))
    if _is_letter(node):
        return 1.0
    raise ValueError("an exponent that may be large")


def _is_letter(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and len(node.id) == 1 and node.id.isascii() and node.id.isalpha()
