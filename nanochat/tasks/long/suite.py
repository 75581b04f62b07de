"""Suites that evaluate a long context: prompts of a given number of tokens that hide what a short answer needs.

passkey                          epfml/landmark-attention   first number of the reply
niah_single_1 … niah_multikey_3  NVIDIA/RULER               share of the answers that are in the reply
variable_tracking                NVIDIA/RULER               share of the answers that are in the reply
common_words_extraction          NVIDIA/RULER               share of the answers that are in the reply
freq_words_extraction            NVIDIA/RULER               share of the answers that are in the reply

The tasks are those of the registry, with the options and the wording of the public definitions (see `needles`, `variables` and
`word_counts`); this module fits them to a number of tokens. Each suite has an easy variant: the same wording with short keys and
values, few answers and no examples, which a model of a few million parameters can learn. Suites ask only what `Procedural` holds
out, so no training split of these tasks has it, whatever the seeds and options. If the key is also the answer it must be
longer than one token (easy pass keys have four digits): a held-out token would never be trained.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.long.needles import Niah, NiahMultikey, Passkey
from nanochat.tasks.long.prompt_task import LongPrompt, Span
from nanochat.tasks.long.variables import SHOT_LETTERS, Variables
from nanochat.tasks.long.word_counts import ASKED, CommonWords, FrequentWords
from nanochat.tasks.procedural import MAX_DRAWS, at_least, seeded

Encode = Callable[[str], Sequence[int]]
SHORT = 4096  # tokens, below which RULER's lists have fewer common words
FREQUENT_REPLY = 50  # tokens
SHOT_TOKENS = 500  # of RULER's example of variable tracking


@dataclass(frozen=True)
class Example:
    """Prompt to be continued by a short reply.

    The prompt ends with `prefix`, the beginning of the answer. In a chat, `question` is the user's turn and the prefix the start of
    the assistant's.
    """

    prompt: str
    answers: tuple[str, ...]
    depth: float | None  # 0 … 1, share of the filler before the fact; None without a single fact
    length: int  # tokens of the prompt
    facts: tuple[Span, ...]  # of the prompt, needed for the answers
    prefix: str

    @property
    def question(self) -> str:
        """The prompt without the prefix."""
        return self.prompt.removesuffix(self.prefix)


def first_number(answers: Sequence[str], reply: str) -> float:
    """Landmark-attention's metric: 1 if the first number of the reply is the answer."""
    number = re.search("[0-9]+", reply)
    return float(number is not None and int(number[0]) == int(answers[0]))


def string_match_all(answers: Sequence[str], reply: str) -> float:
    """RULER's metric: the share of the answers that occur in the reply, in any case."""
    return sum(answer.lower() in reply.lower() for answer in answers) / len(answers)


def word_match_all(answers: Sequence[str], reply: str) -> float:
    """`string_match_all` for the short answers of easy variants, which must be whole words of the reply."""
    found = (re.search(rf"(?<![a-z0-9]){re.escape(answer.lower())}(?![a-z0-9])", reply.lower()) for answer in answers)
    return sum(match is not None for match in found) / len(answers)


def _shot_of_500_tokens(length: int, encode: Encode) -> dict[str, Any]:
    shot = Variables(letters=SHOT_LETTERS)

    def tokens(filler: int) -> int:
        return len(encode(shot.write(random.Random(0), filler).text))

    return {"shot_filler": fill(tokens, 0, SHOT_TOKENS)[0] if tokens(0) <= SHOT_TOKENS else 0}


def _common_words(length: int, encode: Encode) -> dict[str, Any]:
    if length < SHORT:
        return {"repeats": 6, "others": 1, "shot_filler": 10, "shot_repeats": 3}
    return {"repeats": 30, "others": 3, "shot_filler": 30, "shot_repeats": 10}


def _coded_words(length: int, encode: Encode) -> dict[str, Any]:
    words = (length - FREQUENT_REPLY) // 50
    if words <= ASKED:
        raise ValueError(f"length is {length}; freq_words_extraction takes at least {FREQUENT_REPLY + 50 * (ASKED + 1)} tokens")
    return {"vocabulary": words}


@dataclass(frozen=True)
class Definition:
    """Definition of a suite: its task with options, and its metric."""

    task: type[LongPrompt]
    reply_tokens: int
    metric: Callable[[Sequence[str], str], float]
    options: Mapping[str, Any]
    easy: Mapping[str, Any]  # further options of the easy variant
    easy_reply_tokens: int
    scaled: Callable[[int, Encode], dict[str, Any]] = lambda length, encode: {}  # options by length, unless easy


def _niah(task: type[LongPrompt], haystack: str, keys: str = "words", values: str = "numbers") -> Definition:
    easy = {"keys": "uuids" if keys == "uuids" else "nouns", "digits": 4 if values == "uuids" else 2}
    options: dict[str, Any] = {"haystack": haystack, "keys": keys, "values": values}
    if task is NiahMultikey and haystack == "needles":
        options["needles"] = 1
    return Definition(task, 128, string_match_all, options, easy, 12)


DEFINITIONS: dict[str, Definition] = {
    "passkey": Definition(Passkey, 10, first_number, {}, {"digits": 4}, 8),
    "niah_single_1": _niah(Niah, "noise"),
    "niah_single_2": _niah(Niah, "essay"),
    "niah_single_3": _niah(Niah, "essay", values="uuids"),
    "niah_multikey_1": _niah(NiahMultikey, "essay"),
    "niah_multikey_2": _niah(NiahMultikey, "needles"),
    "niah_multikey_3": _niah(NiahMultikey, "needles", "uuids", "uuids"),
    "variable_tracking": Definition(
        Variables, 30, string_match_all, {"shots": 1}, {"shots": 0, "hops": 2, "letters": 2, "digits": 4}, 16, _shot_of_500_tokens
    ),
    "common_words_extraction": Definition(
        CommonWords, 120, string_match_all, {"shots": 1}, {"shots": 0, "common": 3, "repeats": 4, "words": "nouns"}, 32, _common_words
    ),
    "freq_words_extraction": Definition(
        FrequentWords, FREQUENT_REPLY, string_match_all, {}, {"vocabulary": 10, "letters": 2}, 16, _coded_words
    ),
}
SUITES = tuple(DEFINITIONS)


class Suite:
    """Prompts of one definition for one tokenizer, whose `encode` gives the tokens of a text.

    `reply_tokens` is the largest length of a reply, for which the prompt leaves room; by default that of the definition.
    `options` are fields of the task, as in `digits=3`. Raises `UserError` for an unknown name and `ValueError` for an invalid
    option.
    """

    def __init__(self, name: str, encode: Encode, easy: bool = False, reply_tokens: int | None = None, **options: Any) -> None:
        if name not in DEFINITIONS:
            close = difflib.get_close_matches(name, SUITES, n=1)
            raise UserError(f"there is no suite {name!r}; {f'did you mean {close[0]}?' if close else 'there are ' + ', '.join(SUITES)}")
        self.name, self.easy, self._encode, self._options = name, easy, encode, options
        self._definition = DEFINITIONS[name]
        allowed = self._definition.easy_reply_tokens if easy else self._definition.reply_tokens
        self.reply_tokens = allowed if reply_tokens is None else reply_tokens
        at_least(1, reply_tokens=self.reply_tokens)
        known = [f.name for f in dataclasses.fields(self._definition.task) if not f.kw_only and f.name != "filler"]
        for option in options:
            if option not in known:
                raise ValueError(f"unknown option {option} of {name}; options are {', '.join(known)}")

    @property
    def placed(self) -> bool:
        """True for a single fact, whose depth can be chosen in `examples`."""
        return self._definition.task.placed

    def examples(self, count: int, length: int, seed: int, depth: float | None = None) -> list[Example]:
        """`count` prompts; example i is a function of (name, easy, options, encode, length, seed, depth, i) alone.

        A prompt and `reply_tokens` together have at most `length` tokens, at most a thousandth or one unit of filler less.
        Chat tokens around a prompt are not counted. `depth`, 0 … 1, is the place of the fact; by default it is drawn. Examples
        that differ in depth alone ask the same, in the same filler. Raises `ValueError` for a length that is too short, and for
        an invalid depth.
        """
        at_least(1, count=count)
        if depth is not None and not 0 <= depth <= 1:
            raise ValueError(f"depth is {depth}; it must be in 0 … 1")
        task = self._task(length)
        return [self._example(task, length, self._held_out(task, length, seed, i), depth) for i in range(count)]

    def score(self, example: Example, reply: str) -> float:
        """Score of `reply`, the text after the prompt, by the metric of the definition, 0 … 1."""
        metric = self._definition.metric
        return (word_match_all if self.easy and metric is string_match_all else metric)(example.answers, reply)

    def _task(self, length: int) -> LongPrompt:
        """Task of the registry for prompts of `length` tokens; the filler is chosen per prompt."""
        definition = self._definition
        options = {**definition.options, **(definition.easy if self.easy else definition.scaled(length, self._encode)), **self._options}
        return definition.task(**options, filler=sys.maxsize)

    def _held_out(self, task: LongPrompt, length: int, seed: int, index: int) -> str:
        """Seed of example `index`: the first that asks for a held-out key."""
        for attempt in range(MAX_DRAWS):
            text = f"suite\0{self.name}\0{self.easy}\0{length}\0{seed}\0{index}\0{attempt}"
            if task.is_held_out(task.write(seeded(text), task.least_filler).key):
                return text
        raise ValueError(f"{self.name} has too few different examples with these options")

    def _example(self, task: LongPrompt, length: int, text: str, depth: float | None) -> Example:
        filler, tokens = self._fitted(task, length, text, depth)
        prompt = task.write(seeded(text), filler, depth)
        reply = len(self._encode(f" {task.reply(prompt.answers)}"))
        if reply > self.reply_tokens:
            raise ValueError(f"reply_tokens of {self.name} is {self.reply_tokens}; an answer has {reply} tokens of this tokenizer")
        return Example(prompt.text, prompt.answers, prompt.depth, tokens, prompt.facts, prompt.prefix)

    def _fitted(self, task: LongPrompt, length: int, text: str, depth: float | None) -> tuple[int, int]:
        def tokens(filler: int) -> int:
            return len(self._encode(task.write(seeded(text), filler, depth).text))

        room = length - self.reply_tokens
        if (least := tokens(task.least_filler)) > room:
            raise ValueError(f"length is {length}; a prompt of {self.name} and its reply need at least {least + self.reply_tokens} tokens")
        return fill(tokens, task.least_filler, room)


def fill(tokens: Callable[[int], int], least: int, room: int) -> tuple[int, int]:
    """Largest number of units of filler that fits into `room` tokens, and the tokens of that prompt.

    `tokens(n)` is the length with n units; `least` units must fit. The search stops within a thousandth of the room.
    """
    low, at_low = least, tokens(least)
    assert at_low <= room
    step = 32
    while True:  # from below, until a number of units is too large
        at_high = tokens(high := low + step)
        if at_high > room:
            break
        rate, low, at_low = (at_high - at_low) / step, high, at_high
        if room - at_low <= room // 1000:
            return low, at_low
        step = int((room - at_low) / rate) + 1 if rate > 0 else 2 * step
    halve = False
    while high - low > 1 and room - at_low > room // 1000:
        guess = low + int((high - low) * (room - at_low) / (at_high - at_low))
        middle = (low + high) // 2 if halve else min(max(guess, low + 1), high - 1)
        halve = not halve  # interpolation alone can be slow if units differ
        if (at_middle := tokens(middle)) > room:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return low, at_low
