"""Request for replies, the token events that answer it, and the reply that they add up to.

A server hands one `ReplyRequest` on from HTTP to the batcher, and the batcher's `TokenEvent`s back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nanochat.infer.sampling import Sampling
from nanochat.infer.token_scores import TokenScore

Finish = Literal["stop", "length", "time", "error"]


@dataclass(frozen=True, eq=False)
class ReplyRequest:
    """`rows` replies to `prompt`, each of at most `sampling.max_tokens` tokens, or up to and including one of `stop`.

    Row i draws from random stream `first_stream + i` of the seed. With a `session` there is one row, and the prompt continues
    what the session holds. At `deadline`, a time of `time.monotonic`, a server ends what is unfinished.

    With `logprobs` each token comes with its score and that many alternatives, and with `score_prompt` the first one with the scores
    of the prompt. Without `tools` the model's code is not run. `bias` is added to the logits, and the reply follows `grammar`, see
    `nanochat.infer.grammar`.
    """

    prompt: Sequence[int]
    sampling: Sampling
    stop: Collection[int] = ()
    rows: int = 1
    first_stream: int = 0
    session: str | None = None
    deadline: float = math.inf
    logprobs: int | None = None
    score_prompt: bool = False
    tools: bool = True
    bias: Mapping[str, float] = field(default_factory=dict)  # by token, as text because JSON's keys are
    grammar: str | None = None
    id: int = field(default_factory=itertools.count().__next__)  # unique in the process that makes the request

    def __post_init__(self) -> None:
        if self.score_prompt and (self.logprobs is None or self.session is not None):
            raise ValueError("invalid score_prompt: expected with logprobs, and without a session")
        if self.rows < 1 or (self.session is not None and self.rows > 1):
            raise ValueError(f"invalid rows {self.rows}: expected at least 1, and 1 with a session")


class TokenEvent(NamedTuple):
    """A new token of row `row` of request `id`, its end, or both.

    `finish` is `stop` if `token` is a stop token, `length` after the last token allowed, `time` after the deadline, `error` if the
    decoder has stopped or `news` carries another reason. `forced` tokens come from a tool. In a session `news` may carry the
    `focus`, if it has moved. `score` and, with a row's first token, `prompt_scores` come if they were asked for.
    """

    id: int
    row: int
    token: int | None
    forced: bool = False
    finish: Finish | None = None
    news: dict[str, Any] | None = None
    score: TokenScore | None = None
    prompt_scores: list[TokenScore] | None = None


@dataclass
class Completion:
    """A whole reply: all tokens, a flag for each that a tool forced, and whether a stop token, the last one, ended it."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    ended: bool = False

    @property
    def said(self) -> list[int]:
        """The tokens without the stop token."""
        return self.tokens[:-1] if self.ended else self.tokens

    def add(self, event: TokenEvent) -> None:
        """Appends the token of `event`."""
        self.tokens.append(event.token)
        self.forced.append(event.forced)
        self.ended = event.finish == "stop"


def check_prompt(prompt: Sequence[int], vocabulary: int) -> None:
    """Raises `ValueError` if `prompt` is empty or has a token outside the vocabulary."""
    if not prompt:
        raise ValueError("the prompt is empty; it must have at least one token")
    for token in (min(prompt), max(prompt)):
        if not 0 <= token < vocabulary:
            raise ValueError(f"token {token} is not in the vocabulary of {vocabulary}")
