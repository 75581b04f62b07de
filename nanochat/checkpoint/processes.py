"""Processes that save and load together, and the errors of one that all meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nanochat.common import UserError


@dataclass(frozen=True)
class Processes:
    """The processes that save or load together, as seen by one of them; by default it is alone. A `Runtime` has the same interface."""

    rank: int = 0
    world_size: int = 1
    hosts: tuple[str, ...] = ()  # by rank; empty = each on its own

    def all_agree(self, ok: bool) -> bool:
        """Waits for all processes and returns whether `ok` is true in each."""
        return ok

    def first(self, value: Any) -> Any:
        """`value`, which is JSON, of the first process."""
        return value


ALONE = Processes()


class OtherProcessError(UserError):
    """Another process failed; its own error says why."""


@contextmanager
def together(processes: Processes, what: str) -> Iterator[None]:
    """A step that all `processes` take. One that fails still meets the others at the end, so that all raise and none hangs."""
    ok = False
    try:
        yield
        ok = True
    finally:
        all_ok = processes.all_agree(ok)
    if not all_ok:
        raise OtherProcessError(f"cannot {what}: another process failed")


def shared_out(sizes: dict[str, int], ranks: list[int]) -> dict[str, int]:
    """Which of `ranks` takes each name, so that all have about as much to do; `sizes` are by name."""
    loads = dict.fromkeys(ranks, 0)
    takes: dict[str, int] = {}
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        takes[name] = min(loads, key=loads.__getitem__)
        loads[takes[name]] += size
    return takes
