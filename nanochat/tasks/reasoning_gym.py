"""Procedural tasks of the library reasoning-gym (github.com/open-thought/reasoning-gym), by their names there."""

from __future__ import annotations

import dataclasses
import inspect
import random
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.procedural import Drawn, Procedural
from nanochat.tasks.safe_eval import harmless_formula, harmless_to_eval
from nanochat.tasks.task import Conversation, dialogue

POOL = 1 << 20  # size of a data set of the library
SMALL_POOL = {"acre": 2_000, "word_ladder": 2_000}  # of those that make all their examples, or a table of them, at once
EVALUATES = re.compile(r"(?<![\w.])(?:eval|exec|compile)\(")  # in the source of a scorer
EVALUATES_FORMULAS = re.compile(r"\b(?:parse_expr|sympify|simplify|Poly|S)\(")  # sympy's, which evaluate text


@dataclass
class Gym(Procedural):
    """Data set `dataset` with `options` of its configuration, graded by its own scorer, which may give partial credit."""

    dataset: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    label = "gym"
    reply_tokens = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self._data = _open(self.dataset, self.options)
        self._is_harmless = reply_check(type(self._data))
        if not isinstance(self._data[0]["answer"], str):
            raise UserError(f"gym:{self.dataset} has no answers to train on; use another data set of reasoning-gym")

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the question."""
        entry = self._data[rng.randrange(self._data.size)]
        return Drawn(entry["question"], dialogue(entry["question"], entry["answer"], entry=entry))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """Score by the library's scorer; 0 for a reply that it cannot parse, or would have to run as code."""
        reply = reply.strip()
        if self._is_harmless is not None and not self._is_harmless(reply):
            return 0.0
        try:
            return min(max(float(self._data.score_answer(reply, conversation["entry"])), 0.0), 1.0)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError):
            return 0.0  # scorers that parse a reply raise different errors if it is malformed


def reply_check(data_class: type) -> Callable[[str], bool] | None:
    """Check that a reply must pass before the scorer of a data set may see it; None if the scorer evaluates nothing."""
    source = inspect.getsource(data_class.score_answer)
    if EVALUATES_FORMULAS.search(source):
        return harmless_formula
    return harmless_to_eval if EVALUATES.search(source) else None


def gym_options(dataset: str) -> dict[str, Any]:
    """Options of a data set with their types. Raises `UserError` for an unknown name."""
    _, config = _known(dataset)
    return {name: kind for name, kind in typing.get_type_hints(config).items() if name not in ("seed", "size")}


def _known(dataset: str) -> tuple[Any, Any]:
    from reasoning_gym.factory import DATASETS  # here, as it takes a second

    if dataset not in DATASETS or dataset == "composite":
        raise UserError(f"reasoning-gym has no data set {dataset!r}; there are {', '.join(sorted(set(DATASETS) - {'composite'}))}")
    return DATASETS[dataset]


def _open(dataset: str, options: dict[str, Any]) -> Any:
    _known(dataset)
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(dataset, seed=0, size=SMALL_POOL.get(dataset, POOL), **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"gym:{dataset} does not take {options}: {' '.join(str(error).split()) or 'out of range'}") from error
