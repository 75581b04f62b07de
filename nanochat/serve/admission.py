"""Admission control and request counters, shared between threads."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["finished", "cancelled", "failed"]  # of a request

RATE_SECONDS = 10.0  # averaging window of tokens per second


class Busy(Exception):
    """The queue is full. A retry may succeed after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"the server is busy; try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


@dataclass
class Counts:
    """Totals since the start, and current values. Rows are replies: a request for n choices has n.

    Of the `requests`, those that are neither `finished` nor `cancelled` nor `failed` run or wait.
    """

    active: int = 0  # rows that are decoded
    queued: int = 0  # rows that wait
    requests: int = 0
    finished: int = 0  # requests that were answered to their end
    cancelled: int = 0  # requests whose client disconnected
    failed: int = 0  # requests that ended with an error
    refused: int = 0  # requests that were not admitted
    prompt_tokens: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0  # over the last 10 s


class Admission:
    """Admits requests while at most `max_rows` rows are decoded and `max_queue` wait, and counts."""

    def __init__(self, max_rows: int, max_queue: int) -> None:
        self._max_rows, self._max_queue = max_rows, max_queue
        self._lock = threading.Lock()
        self._counts = Counts()
        self._rows = 0  # admitted and not ended
        self._row_seconds = 1.0  # running mean of how long a row takes
        self._recent: deque[tuple[float, int]] = deque()  # time, tokens

    def admit(self, rows: int, prompt_tokens: int) -> None:
        """Admits a request for `rows` replies. Raises `Busy` if there is no place for them."""
        with self._lock:
            if self._rows + rows > self._max_rows + self._max_queue:
                self._counts.refused += 1
                turns = max(0, self._rows - self._max_rows) // self._max_rows + 1
                raise Busy(max(1, math.ceil(turns * self._row_seconds)))
            self._rows += rows
            self._counts.requests += 1
            self._counts.prompt_tokens += prompt_tokens

    def release(self, seconds: float) -> None:
        """Frees the place of a row that ends `seconds` after it was admitted."""
        with self._lock:
            self._rows -= 1
            self._row_seconds += 0.1 * (seconds - self._row_seconds)

    def ended(self, outcome: Outcome) -> None:
        """Counts a request whose rows have all ended."""
        with self._lock:
            setattr(self._counts, outcome, getattr(self._counts, outcome) + 1)

    def decoded(self, tokens: int) -> None:
        """Counts tokens that have just been decoded."""
        now = time.monotonic()
        with self._lock:
            self._counts.tokens += tokens
            self._recent.append((now, tokens))
            while self._recent[0][0] < now - RATE_SECONDS:
                self._recent.popleft()

    def counts(self) -> Counts:
        """The current counts."""
        now = time.monotonic()
        with self._lock:
            active = min(self._rows, self._max_rows)
            recent = sum(tokens for when, tokens in self._recent if when >= now - RATE_SECONDS)
            return dataclasses.replace(self._counts, active=active, queued=self._rows - active, tokens_per_second=recent / RATE_SECONDS)
