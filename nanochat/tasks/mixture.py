"""Conversations of several tasks in one order that looks random and is computed: a pure function of (parts, seed, i)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nanochat.data.dataloader import permute
from nanochat.tasks.task import Conversation, Task


@dataclass(frozen=True)
class Part:
    """A task, and how many conversations of it a pass holds: `count`, or else `repeats` times all it has."""

    task: Task
    repeats: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats of {self.task.name} is {self.repeats}; it must be at least 1")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count of {self.task.name} is {self.count}; it must be at least 1")

    def __len__(self) -> int:
        return self.repeats * len(self.task) if self.count is None else self.count


class Mixture:
    """The conversations of `parts`, mixed. `left_out` says for each task that was wanted why it is not there."""

    def __init__(self, parts: Sequence[Part], seed: int = 0, left_out: Mapping[str, str] | None = None) -> None:
        if not sum(len(part) for part in parts):
            raise ValueError("a mixture must have at least one conversation")
        self.parts, self.seed, self.left_out = tuple(parts), seed, dict(left_out or {})
        self._ends = np.cumsum([len(part) for part in parts])  # of the parts' numbers, laid one after the other
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Conversations in a pass."""
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Conversation:
        """Conversation `i` of the first pass. Raises `IndexError` beyond it; see `at`."""
        if not 0 <= i < len(self):
            raise IndexError(f"the mixture has {len(self)} conversations, no number {i}")
        return self.at(i)

    def __iter__(self) -> Iterator[Conversation]:
        return (self.at(i) for i in range(len(self)))

    def at(self, i: int) -> Conversation:
        """Conversation `i` of an endless sequence of passes, each in an order of its own.

        A later pass has new examples of a task that is made by rule, and the same ones of any other.
        """
        part, index = self.locate(i)
        task = self.parts[part].task
        return task[index if task.endless else index % len(task)]

    def locate(self, i: int) -> tuple[int, int]:
        """Which part conversation `i` is of, and its number among all that this part gives."""
        epoch, place = divmod(i, len(self))
        number = int(self._order(epoch)[place])
        part = int(np.searchsorted(self._ends, number, side="right"))
        return part, epoch * len(self.parts[part]) + number - int(self._ends[part] - len(self.parts[part]))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return permute(np.arange(len(self)), len(self), f"mixture {self.seed} {epoch}")

    @property
    def fingerprint(self) -> str:
        """16 hex digits: the same for mixtures that give the same conversations in the same order."""
        content = json.dumps([self.seed, [(part.task.fingerprint, len(part)) for part in self.parts]])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For the log and the report: conversations of each task and in all, and what was left out and why."""
        rows = [{"task": part.task.name, "conversations": len(part), "share": len(part) / len(self)} for part in self.parts]
        return {"conversations": len(self), "mixture": rows} | ({"left_out": self.left_out} if self.left_out else {})
