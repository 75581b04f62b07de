"""Tools that a model calls in the middle of its reply.

The model writes `<|python_start|>code<|python_end|>`; the tokens `<|output_start|>result<|output_end|>` are then put into
its reply in place of what it would have said, and it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nanochat.calculator import calculate
from nanochat.flags import flag
from nanochat.tokenizer import Tokenizer

MAX_CODE_TOKENS = 2048  # a longer block of code is not run
MAX_OUTPUT_TOKENS = 256  # of a result; the rest is left out
ELLIPSIS = "…"


class Tools:
    """The calculator and, where `run` is given, what executes Python: code in, output out.

    What the calculator does not know is handed to `run`; without one the model gets no output and goes on by itself.
    """

    def __init__(self, tokenizer: Tokenizer, run: Callable[[str], str] | None = None, max_output_tokens: int = MAX_OUTPUT_TOKENS) -> None:
        if max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is {max_output_tokens}; it must be at least 1")
        self._tokenizer, self._run, self._max_output_tokens = tokenizer, run, max_output_tokens
        special = tokenizer.special_tokens
        self.python_start, self.python_end = special["<|python_start|>"], special["<|python_end|>"]
        self._output_start, self._output_end = special["<|output_start|>"], special["<|output_end|>"]
        self._special = frozenset(special.values())

    def result(self, code_tokens: list[int]) -> list[int]:
        """The tokens that follow a block of code: its output between `<|output_start|>` and `<|output_end|>`, or none."""
        if not code_tokens or len(code_tokens) > MAX_CODE_TOKENS or self._special.intersection(code_tokens):
            return []
        code = self._tokenizer.decode(code_tokens)
        output = calculate(code)
        if output is None and self._run is not None:
            output = self._run(code)
        if output is None:
            return []
        text = output.encode("utf-8", errors="replace").decode("utf-8")  # what code prints need not be text
        return [self._output_start, *self._cut(self._tokenizer.encode(text)), self._output_end]

    def _cut(self, tokens: list[int]) -> list[int]:
        if len(tokens) <= self._max_output_tokens:
            return tokens
        # Cut between characters: half of one would be no UTF-8.
        text = self._tokenizer.decode_bytes(tokens[: self._max_output_tokens]).decode("utf-8", errors="ignore")
        mark = self._tokenizer.encode(ELLIPSIS)
        return self._tokenizer.encode(text)[: self._max_output_tokens] + mark


class ToolState:
    """Where in a reply one row is: outside of code, inside, or with output still to come."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._code: list[int] | None = None  # tokens since <|python_start|>
        self._forced: list[int] = []  # tokens to come, the next one last

    @property
    def forced(self) -> int | None:
        """The token that must come next, or None where the model decides."""
        return self._forced[-1] if self._forced else None

    def feed(self, token: int) -> None:
        """Takes note of the row's new token; at the end of a block of code the tool runs, here and now.

        A start inside a block begins the block anew, an end outside of one means nothing, and a block that never ends is
        never run.
        """
        if self._forced:
            assert token == self._forced[-1]
            self._forced.pop()
        elif token == self._tools.python_start:
            self._code = []
        elif token == self._tools.python_end:
            if self._code is not None:
                self._forced = self._tools.result(self._code)[::-1]
            self._code = None
        elif self._code is not None and len(self._code) <= MAX_CODE_TOKENS:
            self._code.append(token)


@dataclass
class ToolFlags:
    """What a model may use while it replies."""

    tools: Literal["none", "calculator", "python"] = flag("calculator", "what the model may use; python runs in the sandbox")
    unsafe_exec: bool = flag(False, "run the model's Python without the sandbox, with your files and your network")

    def __post_init__(self) -> None:
        if self.unsafe_exec and self.tools != "python":
            raise ValueError("unsafe_exec has no effect without --tools python; add it or leave this out")

    def open(self, tokenizer: Tokenizer) -> Tools | None:
        """The tools. Raises `UserError` where Python is wanted and cannot be isolated here."""
        if self.tools == "none":
            return None
        if self.tools == "calculator":
            return Tools(tokenizer)
        from nanochat.execution import isolation, run_python

        if not self.unsafe_exec:
            isolation()

        def run(code: str) -> str:
            done = run_python(code, unsafe=self.unsafe_exec)
            # What went wrong is the last line of a traceback.
            failed = done.stderr.strip().rpartition("\n")[2] or done.outcome
            return done.stdout.strip() if done.outcome == "ok" else f"{done.stdout}{failed}".strip()

        return Tools(tokenizer, run)
