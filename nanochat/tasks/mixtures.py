"""Mixtures of tasks, shuffled as a pure function of (parts, seed, i), with the mixtures and evaluations of the stages as data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nanochat.common import UserError
from nanochat.data.dataloader import permute
from nanochat.tasks.registry import HUB, STORED, open_task
from nanochat.tasks.task import SPLITS, Conversation, Task, digest

HELD_OUT = 20  # one conversation in this many of a part is held out of it, at most
LEAST_HELD_OUT = 50
MOST = 100_000_000  # conversations of a task: their order is held in memory
_ITEM = re.compile(r"(?P<spec>.*?)(?:(?P<sign>[*@])(?P<number>[0-9]+))?", re.DOTALL)


class PartSpec(NamedTuple):
    """Part of a mixture by the spec of its task: `repeats` passes over it, or `count` conversations of it."""

    spec: str
    repeats: int = 1
    count: int | None = None


MIXTURES: dict[str, tuple[PartSpec, ...]] = {
    "mid": (
        PartSpec("smoltalk"),
        PartSpec("mmlu"),
        PartSpec("gsm8k", repeats=2),
        PartSpec("spelling", count=100_000),
        PartSpec("spellingbee", count=60_000),
        PartSpec("arithmetic:terms=3", count=30_000),
        PartSpec("lists", count=10_000),
        PartSpec("recall", count=10_000),
        PartSpec("passkey:filler=3900", count=4_000),
        PartSpec("niah:filler=650:haystack=essay", count=4_000),
        PartSpec("niah_multikey:filler=600:haystack=essay", count=4_000),
        PartSpec("variables:filler=450", count=4_000),
        PartSpec("common_words:filler=100", count=2_000),
        PartSpec("frequent_words:filler=600", count=2_000),
        PartSpec("gym:chain_sum", count=5_000),
        PartSpec("gym:family_relationships", count=5_000),
        PartSpec("identity", count=4_000),
    ),
    "sft": (
        PartSpec("smoltalk", count=20_000),
        PartSpec("arc-easy"),
        PartSpec("arc-challenge"),
        PartSpec("gsm8k"),
        PartSpec("spelling", count=1_000),
        PartSpec("spellingbee", count=1_000),
        PartSpec("arithmetic:terms=3", count=1_000),
        PartSpec("lists", count=500),
        PartSpec("recall", count=500),
        PartSpec("passkey:filler=3900", count=200),
        PartSpec("niah:filler=650:haystack=essay", count=200),
        PartSpec("niah_multikey:filler=600:haystack=essay", count=200),
        PartSpec("variables:filler=450", count=200),
        PartSpec("gym:chain_sum", count=500),
        PartSpec("gym:family_relationships", count=500),
        PartSpec("identity", count=1_000),
    ),
    # The tasks of `mc_eval --easy` in rows of 512 tokens: short keys and values, half of them near.
    "memory": (
        PartSpec("passkey:filler=80:digits=4", count=6_000),
        PartSpec("passkey:filler=800:digits=4", count=6_000),
        PartSpec("niah:filler=20:keys=nouns:digits=2", count=6_000),
        PartSpec("niah:filler=160:keys=nouns:digits=2", count=6_000),
        PartSpec("niah:filler=140:haystack=essay:keys=nouns:digits=2", count=6_000),
        PartSpec("niah_multikey:filler=120:haystack=essay:keys=nouns:digits=2", count=12_000),
        PartSpec("variables:filler=140:hops=2:letters=2:digits=4", count=6_000),
        PartSpec("common_words:filler=36:common=3:repeats=4:words=nouns", count=3_000),
        PartSpec("frequent_words:filler=180:vocabulary=10:letters=2", count=3_000),
        PartSpec("identity", count=1_000),
    ),
    # Short, fixed forms that a model of four layers learns in minutes on a CPU.
    "demo": (
        PartSpec("identity", count=1_500),
        PartSpec("smalltalk", count=17_500),
        PartSpec("arithmetic:digits=2", count=4_000),
        PartSpec("spellingbee:how=tool:words=simple", count=6_500),
        PartSpec("spelling:words=simple", count=9_000),
        PartSpec("lists:do=copy:items=5", count=3_000),
        PartSpec("lists:do=reverse:items=4", count=5_500),
    ),
}
# The tasks of `chat_eval` by name.
EVALUATIONS: dict[str, tuple[str, ...]] = {
    "auto": (
        "arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spellingbee", "spelling", "arithmetic:terms=3", "lists", "recall",
        "identity",
    ),
    "demo": tuple(part.spec for part in MIXTURES["demo"]),
}  # fmt: skip


@dataclass(frozen=True)
class MixturePart:
    """Task of a mixture, with `count` conversations per epoch, or else `repeats` times all of them."""

    task: Task
    repeats: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        for name in ("repeats", "count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} of {self.task.name} is {value}; it must be at least 1")

    def __len__(self) -> int:
        return self.repeats * len(self.task) if self.count is None else self.count


class Mixture:
    """Conversations of `parts`, shuffled. `left_out` maps missing tasks to the reasons."""

    def __init__(self, parts: Sequence[MixturePart], seed: int = 0, left_out: Mapping[str, str] | None = None) -> None:
        if not sum(len(part) for part in parts):
            raise ValueError("a mixture must have at least one conversation")
        self.parts, self.seed, self.left_out = tuple(parts), seed, dict(left_out or {})
        self._ends = np.cumsum([len(part) for part in parts])  # of the parts in an unshuffled epoch
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Conversations per epoch."""
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Conversation:
        """Conversation `i` of the first epoch. Raises `IndexError` beyond it; see `at`."""
        if not 0 <= i < len(self):
            raise IndexError(f"the mixture has {len(self)} conversations, no number {i}")
        return self.at(i)

    def __iter__(self) -> Iterator[Conversation]:
        return (self.at(i) for i in range(len(self)))

    def at(self, i: int) -> Conversation:
        """Conversation `i` of an endless sequence of epochs, each in its own order.

        A later epoch has new examples of an endless task, and the same ones of any other.
        """
        epoch, place = divmod(i, len(self))
        number = int(self._order(epoch)[place])
        part = self.parts[index := int(np.searchsorted(self._ends, number, side="right"))]
        number += len(part) - int(self._ends[index])  # within the part
        return part.task[epoch * len(part) + number if part.task.endless else (epoch * len(part) + number) % len(part.task)]

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for mixtures with the same conversations in the same order."""
        return digest(json.dumps([self.seed, [(part.task.fingerprint, len(part)) for part in self.parts]])).hex()

    def describe(self) -> dict[str, Any]:
        """Conversations of each task and in total, and the tasks and rows left out, for the log and the report."""
        rows = [{"task": part.task.name, "conversations": len(part), "share": len(part) / len(self)} for part in self.parts]
        left_out = self.left_out | {part.task.name: part.task.notice for part in self.parts if part.task.notice}
        return {"conversations": len(self), "mixture": rows} | ({"left_out": left_out} if left_out else {})

    def _shuffled(self, epoch: int) -> np.ndarray:
        return permute(np.arange(len(self)), len(self), f"mixture {self.seed} {epoch}")


def open_mixtures(name: str, seed: int, say: Callable[[str], None] = print, offline: bool = False) -> tuple[Mixture, Mixture]:
    """Mixture to train on and held-out mixture, by name in `MIXTURES` or by tasks (see `parse`).

    A task of a named mixture whose data is not available is left out, and `say` gets the reason. Raises `UserError` for an
    unavailable task that was given by its spec, and for an invalid spec.
    """
    parts, held_out, left_out = [], [], {}
    for wanted in MIXTURES.get(name) or parse(name):
        try:
            part, some = _open_part(wanted, seed, offline, say)
        except UserError as error:
            if name not in MIXTURES or wanted.spec not in HUB:
                raise
            left_out[wanted.spec] = str(error)
            say(f"mixture: {wanted.spec} is left out: {error}")
        else:
            parts.append(part)
            held_out += [some] if some else []
    if not held_out:
        raise UserError(f"{name}: too few conversations to hold some out; give at least {HELD_OUT}, or another task in addition")
    return Mixture(parts, seed, left_out), Mixture(held_out, seed, left_out)


def parse(text: str) -> list[PartSpec]:
    """Parses tasks separated by commas, `gsm8k*2,spelling@5000,customjson:PATH`: `*N` repeats a task, `@N` takes N conversations.

    A path may contain commas, if it is there. Raises `UserError` if the text names no task.
    """
    parts = []
    for item in _items(text):
        match = _ITEM.fullmatch(item)
        if _has_path(item):
            parts.append(PartSpec(item))
            continue
        if match["spec"] in MIXTURES:
            raise UserError(f"{item}: {match['spec']} is a whole mixture; give it alone, or tasks")
        number = int((match["number"] or "1")[:20])
        if not 1 <= number <= MOST:
            raise UserError(f"{item}: take at least one conversation of {match['spec']}, and at most {MOST:,}")
        parts.append(PartSpec(match["spec"], number if match["sign"] == "*" else 1, number if match["sign"] == "@" else None))
    if not parts:
        raise UserError(f"{text!r} names no task; give a mixture ({', '.join(MIXTURES)}) or tasks, as in gsm8k,spelling")
    return parts


def _items(text: str) -> Iterator[str]:
    """The pieces between commas, but as much as is the path of a task in one."""
    pieces = text.split(",")
    while pieces:
        whole = (",".join(pieces[:count]).strip() for count in range(len(pieces), 1, -1))
        item = next((item for item in whole if _has_path(item) or _has_path(_ITEM.fullmatch(item)["spec"])), pieces[0].strip())
        del pieces[: item.count(",") + 1]
        if item:
            yield item


def _has_path(spec: str) -> bool:
    """True if a task is followed by a path that is there."""
    name, _, path = spec.partition(":")
    return name in STORED and bool(path) and os.path.exists(os.path.expanduser(path))


def evaluation_tasks(
    name: str,
    seed: int,
    say: Callable[[str], None] = print,
    check: Callable[[Task], None] = Task.check_grading,
    offline: bool = False,
    trained_on: Collection[str] = (),
) -> tuple[list[Task], dict[str, str]]:
    """Test splits of a list in `EVALUATIONS`, or of specs separated by commas, and the tasks left out with the reasons.

    A file without splits is asked whole, or, if it is part of the mixtures `trained_on`, what they held out of it.
    A task of a list is left out if its data is not available or its replies cannot be graded here (`check` raises
    `UserError`). Raises `UserError` for such a task given by its spec, and for one without grading.
    """
    tasks: list[Task] = []
    left_out: dict[str, str] = {}
    known = {part.spec for mixture in trained_on for part in MIXTURES.get(mixture) or parse(mixture)}
    for spec in EVALUATIONS.get(name) or _specs(name):
        try:
            task = open_splits(spec, seed, offline)[1] if spec in known else open_task(spec, "test", seed, offline)
            check(task)
        except UserError as error:
            if name not in EVALUATIONS or spec not in STORED:
                raise
            left_out[spec] = str(error)
            say(f"{spec} is left out: {error}")
            continue
        if task.kind == "chat":
            raise UserError(f"{spec} cannot be graded; evaluate another task")
        if task.notice:
            say(f"{spec}: {task.notice}")
        tasks.append(task)
    return tasks, left_out


def open_splits(spec: str, seed: int, offline: bool = False, say: Callable[[str], None] = lambda _: None) -> tuple[Task, Task]:
    """Both splits of a task. A file without splits is divided. `say` gets what is left out of either."""
    train, test = (open_task(spec, split, seed, offline) for split in SPLITS)
    for notice in dict.fromkeys(filter(None, (train.notice, test.notice))):
        say(f"{spec}: {notice}")
    if not train.endless and train.fingerprint == test.fingerprint:
        return Fold(train, False), Fold(test, True)
    return train, test


class Fold(Task):
    """Every `HELD_OUT`-th example of a task, or all the others."""

    def __init__(self, task: Task, held_out: bool) -> None:
        self.name, self.kind, self.reply_tokens, self.notice = task.name, task.kind, task.reply_tokens, task.notice
        self._task, self._held_out = task, held_out

    def __len__(self) -> int:
        held_out = len(self._task) // HELD_OUT
        return held_out if self._held_out else len(self._task) - held_out

    def __getitem__(self, index: int) -> Conversation:
        self._check_index(index)
        return self._task[(index + 1) * HELD_OUT - 1 if self._held_out else index + index // (HELD_OUT - 1)]

    def grade(self, conversation: Conversation, reply: str) -> float:
        """See `Task`."""
        return self._task.grade(conversation, reply)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole task with the fold."""
        return f"{self._task.fingerprint} {self._held_out} {HELD_OUT}"


def _open_part(wanted: PartSpec, seed: int, offline: bool, say: Callable[[str], None]) -> tuple[MixturePart, MixturePart | None]:
    """Part to train on, and a few conversations of the test split, or None if there are too few."""
    train, test = open_splits(wanted.spec, seed, offline, say)
    part = MixturePart(train, wanted.repeats, wanted.count)
    count = max(LEAST_HELD_OUT, len(part) // HELD_OUT)
    if not test.endless:
        count = min(count, len(test))
    return part, MixturePart(test, count=count) if count else None


def _specs(text: str) -> list[str]:
    parts = parse(text)
    if any(part != PartSpec(part.spec) for part in parts):
        raise UserError(f"invalid tasks {text}: give the number of problems by --max-problems, not by * or @")
    return [part.spec for part in parts]
