"""Tools that a model calls in the middle of its reply.

The model writes `<|python_start|>code<|python_end|>`; the tokens `<|output_start|>result<|output_end|>` are then forced as its
next ones, and it continues from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import flag
from nanochat.infer.calculator import calculate

MAX_CODE_TOKENS = 2048  # a longer block of code is not run
MAX_OUTPUT_TOKENS = 256  # of a result; the rest is left out
ELLIPSIS = "…"


class Tools:
    """The calculator and, if given, `run`, which executes Python: code in, output out.

    Code that the calculator cannot evaluate is passed to `run`; without one the model gets no output and continues by itself. `run`
    must return an output for any code; what it raises ends the generation of all rows. It may be called in other threads.
    """

    def __init__(self, tokenizer: Tokenizer, run: Callable[[str], str] | None = None, max_output_tokens: int = MAX_OUTPUT_TOKENS) -> None:
        if max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is {max_output_tokens}; it must be at least 1")
        self._tokenizer, self.run, self._max_output_tokens = tokenizer, run, max_output_tokens
        special = tokenizer.special_tokens
        self.python_start, self.python_end = special["<|python_start|>"], special["<|python_end|>"]
        self._output_start, self._output_end = special["<|output_start|>"], special["<|output_end|>"]
        self._special = frozenset(special.values())

    def code(self, tokens: list[int]) -> str | None:
        """The text of a block of code, or None if it cannot be run."""
        if not tokens or len(tokens) > MAX_CODE_TOKENS or self._special.intersection(tokens):
            return None
        return self._tokenizer.decode(tokens)

    def tokens(self, output: str) -> list[int]:
        """`output` between `<|output_start|>` and `<|output_end|>`."""
        text = output.encode("utf-8", errors="replace").decode("utf-8")  # code may print half a surrogate pair
        return [self._output_start, *self._cut(self._tokenizer.encode(text)), self._output_end]

    def _cut(self, tokens: list[int]) -> list[int]:
        if len(tokens) <= self._max_output_tokens:
            return tokens
        # Cut between characters: half of one would not be UTF-8.
        text = self._tokenizer.decode_bytes(tokens[: self._max_output_tokens]).decode("utf-8", errors="ignore")
        mark = self._tokenizer.encode(ELLIPSIS)
        return self._tokenizer.encode(text)[: self._max_output_tokens] + mark


class ToolState:
    """Tool state of one row: outside of code, inside, after code that is to be run, or with output still to come.

    `pending` is code that must be run before the row continues: pass its output to `answer`.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._code: list[int] | None = None  # tokens since <|python_start|>
        self._forced: list[int] = []  # tokens to come, the next one last
        self.pending: str | None = None

    @property
    def forced(self) -> int | None:
        """The token that must come next, or None if the model decides."""
        return self._forced[-1] if self._forced else None

    def feed(self, token: int) -> None:
        """Processes the row's new token. At the end of a block of code the calculator answers, or the code is `pending`.

        A start inside a block restarts the block, an end outside of one is ignored, and a block that never ends is never run.
        """
        if self._forced:
            assert token == self._forced[-1]
            self._forced.pop()
        elif token == self._tools.python_start:
            self._code = []
        elif token == self._tools.python_end:
            if self._code is not None:
                self._end(self._tools.code(self._code))
            self._code = None
        elif self._code is not None and len(self._code) <= MAX_CODE_TOKENS:
            self._code.append(token)

    def _end(self, code: str | None) -> None:
        if code is None:
            return
        result = calculate(code)
        if result is not None:
            self.answer(result)
        elif self._tools.run is not None:
            self.pending = code

    def answer(self, output: str) -> None:
        """Forces `output` as the next tokens."""
        self._forced, self.pending = self._tools.tokens(output)[::-1], None

    def run(self) -> None:
        """Runs pending code, if any, in this thread."""
        if self.pending is not None:
            self.answer(self._tools.run(self.pending))


@dataclass
class ToolFlags:
    """Tools that a model may use while it replies."""

    tools: Literal["none", "calculator", "python"] = flag("calculator", "tools of the model; python runs in the sandbox")
    unsafe_exec: bool = flag(False, "run the model's Python without the sandbox, with your files and your network")

    def __post_init__(self) -> None:
        if self.unsafe_exec and self.tools != "python":
            raise ValueError("unsafe_exec has no effect without --tools python; add it or leave this out")

    def open(self, tokenizer: Tokenizer) -> Tools | None:
        """The tools, None for `none`. Raises `UserError` if Python is wanted and cannot be isolated here."""
        if self.tools == "none":
            return None
        if self.tools == "calculator":
            return Tools(tokenizer)
        from nanochat.sandbox.run import isolation, run_python

        if not self.unsafe_exec:
            isolation()

        def run(code: str) -> str:
            done = run_python(code, unsafe=self.unsafe_exec)
            # The last line of a traceback holds the error.
            failed = done.stderr.strip().rpartition("\n")[2] or done.outcome
            return done.stdout.strip() if done.outcome == "ok" else f"{done.stdout}{failed}".strip()

        return Tools(tokenizer, run)
