"""Request for replies, the token events that answer it, and the reply that they add up to.

A server hands one `ReplyRequest` on from HTTP to the batcher, and the batcher's `TokenEvent`s back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nanochat.infer.sampling import Sampling

Finish = Literal["stop", "length", "time", "error"]


@dataclass(frozen=True, eq=False)
class ReplyRequest:
    """`rows` replies to `prompt`, each of at most `sampling.max_tokens` tokens, or up to and including one of `stop`.

    Row i draws from random stream `first_stream + i` of the seed. With a `session` there is one row, and the prompt continues
    what the session holds. At `deadline`, a time of `time.monotonic`, a server ends what is unfinished.
    """

    prompt: Sequence[int]
    sampling: Sampling
    stop: Collection[int] = ()
    rows: int = 1
    first_stream: int = 0
    session: str | None = None
    deadline: float = math.inf
    id: int = field(default_factory=itertools.count().__next__)  # unique in the process that makes the request

    def __post_init__(self) -> None:
        if self.rows < 1 or (self.session is not None and self.rows > 1):
            raise ValueError(f"invalid rows {self.rows}: expected at least 1, and 1 with a session")


class TokenEvent(NamedTuple):
    """A new token of row `row` of request `id`, its end, or both.

    `finish` is `stop` if `token` is a stop token, `length` after the last token allowed, `time` after the deadline, `error` if the
    decoder has stopped or `news` carries another reason. `forced` tokens come from a tool. In a session `news` may carry the
    `focus`, if it has moved.
    """

    id: int
    row: int
    token: int | None
    forced: bool = False
    finish: Finish | None = None
    news: dict[str, Any] | None = None


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
