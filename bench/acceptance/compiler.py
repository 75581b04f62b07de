"""Counts what torch.compile does in a process, and chooses what it makes of graphs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch._dynamo.callback import on_compile_end, on_compile_start
from torch._dynamo.utils import counters

REAL = "inductor"
TOY = "aot_eager"  # graphs are captured and differentiated, and run by PyTorch's operators: C++ code takes a small machine a minute


@contextmanager
def backend(name: str) -> Iterator[None]:
    """What functions that are given to torch.compile are compiled by."""
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=name)):
        yield


class Compilations:
    """Graphs, breaks and seconds since this object was made; `ended` is called after each compilation."""

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        self._graphs, self._breaks = _graphs(), _breaks()
        self._spent, self._begin = 0.0, 0.0
        self._ended = ended
        on_compile_start(self._start)
        on_compile_end(self._end)

    def graphs(self) -> int:
        """Graphs compiled; a function that is compiled again for another shape or type has several."""
        return _graphs() - self._graphs

    def breaks(self) -> int:
        """Graph breaks: places where a compiled function goes on eagerly."""
        return _breaks() - self._breaks

    def seconds(self) -> float:
        """Seconds in compilation."""
        return self._spent

    # Some versions of torch tell what they compile, others do not.
    def _start(self, *_: object) -> None:
        self._begin = time.perf_counter()

    def _end(self, *_: object) -> None:
        self._spent += time.perf_counter() - self._begin
        self._ended()


def _graphs() -> int:
    return counters["stats"]["unique_graphs"]


def _breaks() -> int:
    return sum(counters["graph_break"].values())
