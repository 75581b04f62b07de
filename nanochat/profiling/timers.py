"""Span timers: named spans around the calls of a step.

On CUDA the spans are timed by device events, which `collect` reads; elsewhere by the wall clock.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

OpenSpan = Callable[[str], AbstractContextManager[None]]  # `with spans("lens"): …`


def untimed(name: str) -> AbstractContextManager[None]:
    """`OpenSpan` that times nothing."""
    return nullcontext()


class SpanTimers:
    """Times `with spans("forward"): …`. The time of a nested span is subtracted from the outer one, so spans never overlap.

    Each of `watchers` gets the name of a span and returns a context manager, which surrounds the span.
    """

    def __init__(self, device: torch.device) -> None:
        self.watchers: list[OpenSpan] = []
        self._cuda = device.type == "cuda"
        self._stack: list[str] = []
        self._ignored = False
        self._milliseconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, str | None, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._ignored:
            yield
            return
        with ExitStack() as watching:
            for watcher in self.watchers:
                watching.enter_context(watcher(name))
            outer = self._stack[-1] if self._stack else None
            self._stack.append(name)
            begin = self._now()
            try:
                yield
            finally:
                end = self._now()
                self._stack.pop()
                if self._cuda:
                    self._events.append((name, outer, begin, end))
                else:
                    self._add(name, outer, (end - begin) * 1e3)

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Spans opened inside do not count."""
        self._ignored = True
        try:
            yield
        finally:
            self._ignored = False

    def collect(self) -> dict[str, float]:
        """Milliseconds by name since the last call. Waits for the device on CUDA."""
        if self._events:
            torch.cuda.synchronize()
            for name, outer, begin, end in self._events:
                self._add(name, outer, begin.elapsed_time(end))
            self._events.clear()
        out, self._milliseconds = dict(self._milliseconds), defaultdict(float)
        return out

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, name: str, outer: str | None, milliseconds: float) -> None:
        self._milliseconds[name] += milliseconds
        if outer is not None:
            self._milliseconds[outer] -= milliseconds
