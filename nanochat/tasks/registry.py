"""Registry of tasks by spec: `NAME`, `NAME:ARGUMENT` or, for procedural tasks, `NAME:OPTION=VALUE:…`.

spelling   spelling:words=simple:syllables=2   gym:basic_arithmetic:max_terms=3   gsm8k   gsm8k:/data/gsm8k   customjson:my.jsonl
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.arithmetic import Arithmetic, Compare
from nanochat.tasks.conversations import CustomJson, SmolTalk
from nanochat.tasks.gsm8k import Gsm8k
from nanochat.tasks.humaneval import HumanEval
from nanochat.tasks.lists import Lists
from nanochat.tasks.long.needles import Niah, NiahMultikey, Passkey
from nanochat.tasks.long.variables import Variables
from nanochat.tasks.long.word_counts import CommonWords, FrequentWords
from nanochat.tasks.multiple_choice import ArcChallenge, ArcEasy, Mmlu
from nanochat.tasks.procedural import Procedural
from nanochat.tasks.reasoning_gym import Gym, gym_options
from nanochat.tasks.recall import Recall
from nanochat.tasks.spelling import Spelling, SpellingBee
from nanochat.tasks.talk.identity import Identity
from nanochat.tasks.talk.small_talk import SmallTalk
from nanochat.tasks.task import SPLITS, Split, Task

PROCEDURAL: dict[str, type[Procedural]] = {
    kind.label: kind
    for kind in (
        Identity, SmallTalk, Spelling, SpellingBee, Arithmetic, Compare, Lists, Recall,
        Passkey, Niah, NiahMultikey, Variables, CommonWords, FrequentWords,
    )
}  # fmt: skip
HUB = {kind.label: kind for kind in (SmolTalk, Mmlu, ArcEasy, ArcChallenge, Gsm8k)}
STORED = HUB | {kind.label: kind for kind in (HumanEval, CustomJson)}  # have `open(spec, path, split, offline)`
_CONVERT: dict[type, Callable[[str], Any]] = {str: str, int: int, float: float}


def open_task(spec: str, split: Split, seed: int = 0, offline: bool = False) -> Task:
    """Opens the task `spec`. `offline` avoids the network; data on disk is still found.

    Raises `UserError` for an invalid spec, and if the task's data is not available, with what to do about it.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    name, _, argument = spec.partition(":")
    if name in PROCEDURAL:
        options = [item for item in argument.split(":") if item]
        return _build(spec, PROCEDURAL[name], _options(spec, options, _fields(PROCEDURAL[name])), split, seed)
    if name == Gym.label:
        return _gym(spec, argument, split, seed)
    if name in STORED:
        return STORED[name].open(spec, argument, split, offline)
    names = sorted({*PROCEDURAL, *STORED, Gym.label})
    close = difflib.get_close_matches(name, names, n=1)
    raise UserError(f"there is no task {name!r}; {f'did you mean {close[0]}?' if close else 'there are ' + ', '.join(names)}")


def _gym(spec: str, argument: str, split: Split, seed: int) -> Gym:
    dataset, *items = argument.split(":")
    if not dataset:
        raise UserError(f"{spec} names no data set of reasoning-gym; give gym:NAME, as in gym:basic_arithmetic")
    return _build(spec, Gym, {"dataset": dataset, "options": _options(spec, items, gym_options(dataset))}, split, seed)


def _build(spec: str, kind: type[Procedural], options: Mapping[str, Any], split: Split, seed: int) -> Any:
    try:
        return kind(**options, split=split, seed=seed, name=spec)
    except ValueError as error:
        raise UserError(f"{spec}: {error}") from error


def _fields(kind: type[Procedural]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if not field.kw_only}


def _options(spec: str, items: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Parses `["digits=2"]` as `{"digits": 2}`."""
    options: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or name not in known:
            raise UserError(f"{spec} has no option {item!r}; there are {', '.join(f'{option}=…' for option in known) or 'none'}")
        options[name] = _convert(spec, name, value, known[name])
    return options


def _convert(spec: str, name: str, value: str, kind: Any) -> Any:
    kinds = [k for k in (typing.get_args(kind) or (kind,)) if k is not type(None)]
    try:
        if kinds == [bool]:
            return {"0": False, "1": True, "false": False, "true": True}[value.lower()]
        return _CONVERT[kinds[0]](value)
    except (KeyError, ValueError) as error:
        raise UserError(f"{spec}: invalid {name} {value!r}; expected {getattr(kinds[0], '__name__', kinds[0])}") from error
