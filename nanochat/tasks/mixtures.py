"""Conversations of several tasks in one order that looks random and is computed: a pure function of (parts, seed, i)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nanochat.common import UserError
from nanochat.data.dataloader import permute
from nanochat.tasks.registry import HUB, STORED, open_task
from nanochat.tasks.task import SPLITS, Conversation, Task

HELD_OUT = 20  # one conversation in so many of a part is what is held out of it at most
LEAST_HELD_OUT = 50


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


class Ingredient(NamedTuple):
    """A task by its spec; all of it `repeats` times, or `count` conversations of it."""

    spec: str
    repeats: int = 1
    count: int | None = None


RECIPES: dict[str, tuple[Ingredient, ...]] = {
    "mid": (
        Ingredient("smoltalk"),
        Ingredient("mmlu"),
        Ingredient("gsm8k", repeats=2),
        Ingredient("spelling", count=100_000),
        Ingredient("spellingbee", count=60_000),
        Ingredient("arithmetic:terms=3", count=30_000),
        Ingredient("lists", count=10_000),
        Ingredient("recall", count=10_000),
        Ingredient("passkey:filler=3900", count=4_000),
        Ingredient("niah:filler=650:haystack=essay", count=4_000),
        Ingredient("niah_multikey:filler=600:haystack=essay", count=4_000),
        Ingredient("variables:filler=450", count=4_000),
        Ingredient("common_words:filler=100", count=2_000),
        Ingredient("frequent_words:filler=600", count=2_000),
        Ingredient("gym:chain_sum", count=5_000),
        Ingredient("gym:family_relationships", count=5_000),
        Ingredient("identity", count=4_000),
    ),
    "sft": (
        Ingredient("smoltalk", count=20_000),
        Ingredient("arc-easy"),
        Ingredient("arc-challenge"),
        Ingredient("gsm8k"),
        Ingredient("spelling", count=1_000),
        Ingredient("spellingbee", count=1_000),
        Ingredient("arithmetic:terms=3", count=1_000),
        Ingredient("lists", count=500),
        Ingredient("recall", count=500),
        Ingredient("passkey:filler=3900", count=200),
        Ingredient("niah:filler=650:haystack=essay", count=200),
        Ingredient("niah_multikey:filler=600:haystack=essay", count=200),
        Ingredient("variables:filler=450", count=200),
        Ingredient("gym:chain_sum", count=500),
        Ingredient("gym:family_relationships", count=500),
        Ingredient("identity", count=1_000),
    ),
    # What `mc_eval --easy` asks, in rows of 512 tokens: short keys and values, half of them near.
    "memory": (
        Ingredient("passkey:filler=80:digits=4", count=6_000),
        Ingredient("passkey:filler=800:digits=4", count=6_000),
        Ingredient("niah:filler=20:keys=nouns:digits=2", count=6_000),
        Ingredient("niah:filler=160:keys=nouns:digits=2", count=6_000),
        Ingredient("niah:filler=140:haystack=essay:keys=nouns:digits=2", count=6_000),
        Ingredient("niah_multikey:filler=120:haystack=essay:keys=nouns:digits=2", count=12_000),
        Ingredient("variables:filler=140:hops=2:letters=2:digits=4", count=6_000),
        Ingredient("common_words:filler=36:common=3:repeats=4:words=nouns", count=3_000),
        Ingredient("frequent_words:filler=180:vocabulary=10:letters=2", count=3_000),
        Ingredient("identity", count=1_000),
    ),
    # Short, fixed forms that a model of four layers learns in minutes on a CPU.
    "demo": (
        Ingredient("identity", count=4_000),
        Ingredient("arithmetic:digits=2", count=8_000),
        Ingredient("spellingbee:how=tool:words=simple", count=8_000),
        Ingredient("spelling:words=simple", count=8_000),
        Ingredient("lists:do=copy:items=5", count=6_000),
        Ingredient("lists:do=reverse:items=4", count=8_000),
    ),
}


# What `chat_eval` measures: a name instead of specs.
EVALUATIONS: dict[str, tuple[str, ...]] = {
    "auto": (
        "arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spellingbee", "spelling", "arithmetic:terms=3", "lists", "recall",
        "identity",
    ),
    "demo": tuple(ingredient.spec for ingredient in RECIPES["demo"]),
}  # fmt: skip


_ITEM = re.compile(r"(?P<spec>.*?)(?:(?P<sign>[*@])(?P<number>[0-9]+))?", re.DOTALL)


def mid_mixtures(name: str = "auto", seed: int = 0, say: Callable[[str], None] = print, offline: bool = False) -> tuple[Mixture, Mixture]:
    """The conversations of midtraining, and those held out; see `mixtures`."""
    return mixtures("mid" if name == "auto" else name, seed, say, offline)


def sft_mixtures(name: str = "auto", seed: int = 0, say: Callable[[str], None] = print, offline: bool = False) -> tuple[Mixture, Mixture]:
    """The conversations of supervised fine-tuning, and those held out; see `mixtures`."""
    return mixtures("sft" if name == "auto" else name, seed, say, offline)


def mixtures(name: str, seed: int, say: Callable[[str], None] = print, offline: bool = False) -> tuple[Mixture, Mixture]:
    """What to train on and what is held out, by the name of a recipe or by tasks (see `parse`).

    A task of a recipe whose data cannot be had is left out, and `say` is told why; a task that was asked for by its name is
    not. Raises `UserError` for that, and for a spec that is none.
    """
    parts, held_out, left_out = [], [], {}
    for ingredient in RECIPES.get(name) or parse(name):
        try:
            part, some = _parts(ingredient, seed, offline)
        except UserError as error:
            if name not in RECIPES or ingredient.spec not in HUB:
                raise
            left_out[ingredient.spec] = str(error)
            say(f"mixture: {ingredient.spec} is left out: {error}")
        else:
            parts.append(part)
            held_out += [some] if some else []
    if not held_out:
        raise UserError(f"{name}: there are too few conversations to hold some out; give at least {HELD_OUT}, or another task beside it")
    return Mixture(parts, seed, left_out), Mixture(held_out, seed, left_out)


def parse(text: str) -> list[Ingredient]:
    """Tasks separated by commas, `gsm8k*2,spelling@5000,customjson:PATH`: `*N` repeats a task, `@N` takes N conversations of it.

    Raises `UserError` where there is no task in the text.
    """
    ingredients = []
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        match = _ITEM.fullmatch(item)
        number = int(match["number"] or 1)
        if number < 1:
            raise UserError(f"{item}: take at least one conversation of {match['spec']}")
        ingredients.append(Ingredient(match["spec"], number if match["sign"] == "*" else 1, number if match["sign"] == "@" else None))
    if not ingredients:
        raise UserError(f"{text!r} names no task; give a recipe ({', '.join(RECIPES)}) or tasks, as in gsm8k,spelling")
    return ingredients


class Fold(Task):
    """Every `HELD_OUT`-th example of a task, or all but these."""

    def __init__(self, task: Task, held_out: bool) -> None:
        self.name, self.kind, self.reply_tokens = task.name, task.kind, task.reply_tokens
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
        """Of the whole task and of which part this is."""
        return f"{self._task.fingerprint} {self._held_out} {HELD_OUT}"


def _parts(ingredient: Ingredient, seed: int, offline: bool) -> tuple[Part, Part | None]:
    """What to train on, and a few conversations of the test split, or None where there are too few.

    A file that is both splits in one is divided.
    """
    train, test = (open_task(ingredient.spec, split, seed, offline) for split in SPLITS)
    if not train.endless and train.fingerprint == test.fingerprint:
        train, test = Fold(train, False), Fold(test, True)
    part = Part(train, ingredient.repeats, ingredient.count)
    wanted = max(LEAST_HELD_OUT, len(part) // HELD_OUT)
    count = wanted if test.endless else min(wanted, len(test))
    return part, Part(test, count=count) if count else None


def evaluation_tasks(
    name: str, seed: int, say: Callable[[str], None] = print, check: Callable[[Task], None] = Task.check_grading, offline: bool = False
) -> tuple[list[Task], dict[str, str]]:
    """The test splits of a list in `EVALUATIONS`, or of specs separated by commas, and why others are left out.

    Out of a list, a task is left out whose data cannot be had or whose replies cannot be graded here (`check` raises
    `UserError`). Raises `UserError` for one of these that was asked for by its spec, and for one with nothing to grade.
    """
    tasks: list[Task] = []
    left_out: dict[str, str] = {}
    for spec in EVALUATIONS.get(name) or _specs(name):
        try:
            task = open_task(spec, "test", seed, offline)
            check(task)
        except UserError as error:
            if name not in EVALUATIONS or spec not in STORED:
                raise
            left_out[spec] = str(error)
            say(f"{spec} is left out: {error}")
            continue
        if task.kind == "chat":
            raise UserError(f"{spec} has nothing to grade a reply by; evaluate another task")
        tasks.append(task)
    return tasks, left_out


def _specs(text: str) -> list[str]:
    ingredients = parse(text)
    for ingredient in ingredients:
        if ingredient != Ingredient(ingredient.spec):
            raise UserError(f"{text}: how many problems are asked is --max-problems; leave * and @ out of the tasks to evaluate")
    return [ingredient.spec for ingredient in ingredients]
