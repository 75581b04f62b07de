"""Suites that measure a long context: a prompt of so many tokens that hides what a short answer needs.

passkey                          epfml/landmark-attention   first number of the reply
niah_single_1 … niah_multikey_3  NVIDIA/RULER               share of the answers that are in the reply
variable_tracking                NVIDIA/RULER               share of the answers that are in the reply
common_words_extraction          NVIDIA/RULER               share of the answers that are in the reply
freq_words_extraction            NVIDIA/RULER               share of the answers that are in the reply

The tasks are those of the registry, with the options and the wording of the public definitions (see `needles`, `variables` and
`word_counts`); only the tokens of the prompt are counted here. Each suite has an easy variant: the same wording with short keys
and values, few answers and no examples, which a model of a few million parameters can learn. What a suite asks is held out by
the rule of `Procedural`: no training split of these tasks asks for it, whatever the seeds and options. So what is held out must
be more than one token long where it is also the answer (easy pass keys have four digits): a single one would never be trained.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.common import UserError
from nanochat.tasks.long.needles import Niah, NiahMultikey, Passkey
from nanochat.tasks.long.prompt_task import LongPrompt, Span
from nanochat.tasks.long.variables import SHOT_LETTERS, Variables
from nanochat.tasks.long.word_counts import ASKED, CommonWords, FrequentWords
from nanochat.tasks.procedural import MAX_DRAWS, at_least

Encode = Callable[[str], Sequence[int]]
SHORT = 4096  # tokens; RULER's lists of common words are thinner below
FREQUENT_REPLY = 50  # tokens
SHOT_TOKENS = 500  # of RULER's example of variable tracking


@dataclass(frozen=True)
class Example:
    """A prompt to be continued by a short reply.

    The prompt ends with `prefix`, the beginning of the answer. A chat takes `question` as the user's turn and starts the
    assistant's with the prefix.
    """

    prompt: str
    answers: tuple[str, ...]
    depth: float | None  # 0 … 1, share of the filler before the fact; None where there is not one fact
    length: int  # tokens of the prompt
    facts: tuple[Span, ...]  # characters of the prompt that hold what is needed
    prefix: str

    @property
    def question(self) -> str:
        """The prompt without the prefix."""
        return self.prompt.removesuffix(self.prefix)


def first_number(answers: Sequence[str], reply: str) -> float:
    """Landmark-attention's metric: 1 where the first number of the reply is the answer."""
    number = re.search("[0-9]+", reply)
    return float(number is not None and int(number[0]) == int(answers[0]))


def string_match_all(answers: Sequence[str], reply: str) -> float:
    """RULER's metric: the share of the answers that are somewhere in the reply, capital or small."""
    return sum(answer.lower() in reply.lower() for answer in answers) / len(answers)


def word_match_all(answers: Sequence[str], reply: str) -> float:
    """`string_match_all` for the short answers of easy variants: each must be a word of the reply, and not lie inside one."""
    found = (re.search(rf"(?<![a-z0-9]){re.escape(answer.lower())}(?![a-z0-9])", reply.lower()) for answer in answers)
    return sum(match is not None for match in found) / len(answers)


def _of_length(length: int, encode: Encode) -> dict[str, Any]:
    return {}


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
    """A suite: its task, the options it has there, and how its replies are judged."""

    task: type[LongPrompt]
    reply_tokens: int
    metric: Callable[[Sequence[str], str], float]
    options: Mapping[str, Any]
    easy: Mapping[str, Any]  # options of the easy variant beside these
    easy_reply_tokens: int
    scaled: Callable[[int, Encode], dict[str, Any]] = field(default=_of_length)  # options that depend on the length, when not easy


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

    `reply_tokens` is how many tokens a reply may take, which the prompt leaves free; by default what the definition allows.
    `options` are fields of the task, as in `digits=3`. Raises `UserError` for a name that is none and `ValueError` naming an
    option that is wrong.
    """

    def __init__(self, name: str, encode: Encode, easy: bool = False, reply_tokens: int | None = None, **options: Any) -> None:
        if name not in DEFINITIONS:
            close = difflib.get_close_matches(name, SUITES, n=1)
            raise UserError(f"there is no suite {name!r}; {f'did you mean {close[0]}?' if close else 'there are ' + ', '.join(SUITES)}")
        self.name, self.easy, self._encode, self._options = name, easy, encode, options
        self._definition = DEFINITIONS[name]
        allowed = self._definition.easy_reply_tokens if easy else self._definition.reply_tokens
        self.reply_tokens = allowed if reply_tokens is None else reply_tokens
        at_least("reply_tokens", self.reply_tokens, 1)
        known = [f.name for f in dataclasses.fields(self._definition.task) if not f.kw_only and f.name != "filler"]
        for option in options:
            if option not in known:
                raise ValueError(f"{option} is no option of {name}; it has {', '.join(known)}")

    @property
    def placed(self) -> bool:
        """Whether the fact is at one depth, which `examples` can be told."""
        return self._definition.task.placed

    def examples(self, count: int, length: int, seed: int, depth: float | None = None) -> list[Example]:
        """`count` prompts; example i is a function of (name, easy, options, encode, length, seed, depth, i) alone.

        A prompt and `reply_tokens` are together at most `length` tokens, and less by a thousandth or by one unit of filler.
        Tokens that a chat puts around a prompt are not counted. `depth`, 0 … 1, is where the fact is; by default it is drawn.
        Examples that differ in depth alone ask the same, in the same filler.
        Raises `ValueError` naming what is out of range: a length that is too short, a depth where there is not one fact.
        """
        at_least("count", count, 1)
        if depth is not None and not self.placed:
            raise ValueError(f"depth is {depth}; what {self.name} needs is not at one depth")
        if depth is not None and not 0 <= depth <= 1:
            raise ValueError(f"depth is {depth}; it must be in 0 … 1")
        task = self._task(length)
        return [self._example(task, length, self._held_out(task, length, seed, i), depth) for i in range(count)]

    def score(self, example: Example, reply: str) -> float:
        """What `reply`, the text after the prompt, is worth by the metric of the definition, 0 … 1."""
        metric = self._definition.metric
        return (word_match_all if self.easy and metric is string_match_all else metric)(example.answers, reply)

    def training_spec(self, length: int) -> str:
        """The spec of the registry for conversations of this kind, whose prompts are about `length` tokens."""
        task = self._task(length)
        filler, _ = self._fitted(task, length, "0", None)
        options = [f for f in dataclasses.fields(task) if not f.kw_only and f.name != "filler" and getattr(task, f.name) != f.default]
        return ":".join([task.label, f"filler={filler}", *(f"{f.name}={getattr(task, f.name)}" for f in options)])

    def _task(self, length: int) -> LongPrompt:
        """The task of the registry that this suite is for prompts of `length` tokens; the filler is given as it writes."""
        definition = self._definition
        options = {**definition.options, **(definition.easy if self.easy else definition.scaled(length, self._encode)), **self._options}
        return definition.task(**options, filler=sys.maxsize)

    def _held_out(self, task: LongPrompt, length: int, seed: int, index: int) -> str:
        """The seed of example `index`: the first that asks for what is held out."""
        for attempt in range(MAX_DRAWS):
            text = f"suite\0{self.name}\0{self.easy}\0{length}\0{seed}\0{index}\0{attempt}"
            if task.is_held_out(task.write(_rng(text), task.least_filler).key):
                return text
        raise ValueError(f"{self.name} has too few different examples with these options")

    def _example(self, task: LongPrompt, length: int, text: str, depth: float | None) -> Example:
        filler, tokens = self._fitted(task, length, text, depth)
        prompt = task.write(_rng(text), filler, depth)
        reply = len(self._encode(f" {task.reply(prompt.answers)}"))
        if reply > self.reply_tokens:
            raise ValueError(f"reply_tokens of {self.name} is {self.reply_tokens}; an answer takes {reply} tokens of this tokenizer")
        return Example(prompt.text, prompt.answers, prompt.depth, tokens, prompt.facts, prompt.prefix)

    def _fitted(self, task: LongPrompt, length: int, text: str, depth: float | None) -> tuple[int, int]:
        def tokens(filler: int) -> int:
            return len(self._encode(task.write(_rng(text), filler, depth).text))

        room = length - self.reply_tokens
        if (least := tokens(task.least_filler)) > room:
            raise ValueError(f"length is {length}; a prompt of {self.name} and its reply take {least + self.reply_tokens} tokens at least")
        return fill(tokens, task.least_filler, room)


def fill(tokens: Callable[[int], int], least: int, room: int) -> tuple[int, int]:
    """How many units of filler there is room for, and the tokens of that prompt.

    `tokens(n)` is the tokens with n units, `least` the fewest units, with which there must be room. The prompt is short of the
    room by at most a thousandth, or one unit more is too much.
    """
    low, at_low = least, tokens(least)
    assert at_low <= room
    step = 32
    while True:  # from below, until a number of units is too much
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
        halve = not halve  # interpolation alone can be slow where units differ
        if (at_middle := tokens(middle)) > room:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return low, at_low


def _rng(text: str) -> random.Random:
    return random.Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
