"""Evaluation on long-context recall suites through sessions.

The prompt is read as a history under each condition of `mc.eval.session_baselines`; then the model decodes greedily (`generate`), or
every token of the reference reply must be the argmax (`likelihood`). Shapes: `B` rows, `n` tokens of a reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.eval.conditions import Condition
from mc.eval.session_baselines import Opened, Reader, SessionEval, Spans, forced, joined
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.chat_eval import wilson
from nanochat.infer.engine import Engine
from nanochat.infer.reply import stop_tokens
from nanochat.infer.sampling import Sampling
from nanochat.tasks.long.mqar import mqar
from nanochat.tasks.long.suite import DEFINITIONS, Example, Suite

Scoring = Literal["generate", "likelihood"]
MQAR = "mqar"
MQAR_PAIRS = 8


class Unfit(ValueError):
    """Raised if a suite has no prompts of a length."""


class Prediction(NamedTuple):
    """Reply under one condition to a prompt of `length` tokens; `prompt` is a hash of its tokens."""

    suite: str
    length: int
    condition: Condition
    prompt: str
    answer: str
    reply: str
    score: float


@dataclass(frozen=True)
class Asked:
    """Prompt as the model reads it, int64 [n], with its reference `reply` in tokens; `needed` are the spans that hold the answer."""

    tokens: Tensor
    answer: str
    reply: tuple[int, ...]
    needed: Spans
    score: Callable[[str], float]


@dataclass
class Examiner:
    """Runs suites: a base model (`chat` false) continues the prompt; a chat model gets it as a user's turn and the beginning of its
    reply."""

    evaluation: SessionEval
    tokenizer: Tokenizer
    chat: bool
    scoring: Scoring = "generate"
    easy: bool = False

    def __post_init__(self) -> None:
        self._model = self.evaluation.memory.model
        self._engine = Engine(self._model)

    def run(self, suite: str, length: int) -> list[Prediction]:
        """Predictions for prompts of `length` tokens. Raises `Unfit` if there can be none."""
        if suite == MQAR:
            return list(self._mqar(length))
        tasks = Suite(suite, self.tokenizer.encode, easy=self.easy)
        predictions: list[Prediction] = []
        waiting: list[tuple[Asked, Condition, Opened]] = []
        try:
            examples = tasks.examples(self.evaluation.examples, length, self.evaluation.seed)
        except ValueError as error:
            raise Unfit(str(error)) from error
        for number, example in enumerate(examples):
            asked, reader = self._asked(tasks, example), Reader(self.evaluation, number)
            reader.read(asked.tokens)
            waiting += [(asked, condition, opened) for condition, opened in reader.open_all(asked.needed)]
            if len(waiting) >= self.evaluation.batch:
                predictions += self._answer(suite, length, waiting, tasks.reply_tokens)
                waiting = []
        return predictions + self._answer(suite, length, waiting, tasks.reply_tokens)

    def _asked(self, suite: Suite, example: Example) -> Asked:
        encode, special = self.tokenizer.encode, self.tokenizer.special_tokens
        expected = DEFINITIONS[suite.name].task().reply(example.answers)
        if self.chat:
            before = [special["<|bos|>"], special["<|user_start|>"]]
            after = [special["<|user_end|>"], special["<|assistant_start|>"], *encode(example.prefix.strip())]
            tokens = [*before, *encode(example.question), *after]
        else:
            before, tokens = [special["<|bos|>"]], [special["<|bos|>"], *encode(example.prompt)]
        starts = [len(before) + len(encode(example.prompt[:begin])) for begin, _ in example.facts]
        needed = [(at, at + len(encode(example.prompt[begin:end])) + 1) for at, (begin, end) in zip(starts, example.facts, strict=True)]
        return Asked(
            torch.tensor(tokens), ", ".join(example.answers), tuple(encode(f" {expected}")), needed, lambda text: suite.score(example, text)
        )

    def _answer(self, suite: str, length: int, waiting: Sequence[tuple[Asked, Condition, Opened]], reply_tokens: int) -> list[Prediction]:
        """Predictions for opened histories."""
        if not waiting:
            return []
        rows = joined(self.evaluation, [opened for *_, opened in waiting])
        if self.scoring == "generate":
            texts = [self.tokenizer.decode(reply) for reply in self._replies(rows, reply_tokens)]
            scores = [asked.score(text) for (asked, *_), text in zip(waiting, texts, strict=True)]
        else:
            likeliest = self._likeliest(rows, [asked.reply for asked, *_ in waiting])
            texts = [self.tokenizer.decode(reply) for reply in likeliest]
            scores = [float(reply == list(asked.reply)) for (asked, *_), reply in zip(waiting, likeliest, strict=True)]
        return [
            Prediction(suite, length, condition, _digest(asked.tokens), asked.answer, text, score)
            for (asked, condition, _), text, score in zip(waiting, texts, scores, strict=True)
        ]

    def _replies(self, rows: Opened, reply_tokens: int) -> list[list[int]]:
        stop = stop_tokens(self.tokenizer)
        replies: list[list[int]] = [[] for _ in range(rows.cache.rows)]
        for tokens in self._engine.resume(rows.cache, rows.hidden, Sampling(temperature=0, max_tokens=reply_tokens), stop):
            for reply, token in zip(replies, tokens, strict=True):
                if token is not None and token not in stop:
                    reply.append(token)
        return replies

    def _likeliest(self, rows: Opened, replies: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Argmax in place of each token of the reference replies, teacher-forced."""
        longest = max(map(len, replies))
        padded = torch.tensor([[*reply, *[0] * (longest - len(reply))] for reply in replies])
        tokens = torch.stack([self._model.logits(hidden).argmax(-1).cpu() for hidden in forced(rows, padded)], dim=1)
        return [row[: len(reply)] for row, reply in zip(tokens.tolist(), replies, strict=True)]

    def _mqar(self, length: int) -> Iterator[Prediction]:
        """Yields one prediction for each query; the tokens after a query are random."""
        length -= length % 2
        try:
            rows = mqar(self.evaluation.examples, length, self.evaluation.seed, self._model.config.vocab_size, MQAR_PAIRS)
        except ValueError as error:
            raise Unfit(str(error)) from error
        for number, tokens in enumerate(torch.from_numpy(np.ascontiguousarray(rows.tokens))):
            queries, reader = np.argsort(rows.asked[number]), Reader(self.evaluation, number)
            first = int(rows.asked[number][queries[0]]) + 1
            reader.read(tokens[:first])
            needed = [(int(place), int(place) + 2) for place in rows.pairs[number]]
            for condition, opened in reader.open_all(needed, longest=length):
                hidden, read = opened.hidden, first
                for query in queries:
                    upto = int(rows.asked[number][query]) + 1
                    if upto > read:
                        hidden, read = opened.cache.append(tokens[None, read:upto]), upto
                    reply, right = int(self._model.logits(hidden).argmax()), int(rows.values[number][query])
                    yield Prediction(
                        MQAR, length, condition, _digest(tokens[:upto]), f"token {right}", f"token {reply}", float(reply == right)
                    )


def _digest(tokens: Tensor) -> str:
    return hashlib.blake2b(tokens.numpy().tobytes(), digest_size=8).hexdigest()


def suite_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Rows of accuracy with its 95 % interval, by suite, length and condition."""
    rows = []
    for key in dict.fromkeys((p.suite, p.length, p.condition) for p in predictions):
        scores = [p.score for p in predictions if (p.suite, p.length, p.condition) == key]
        accuracy = sum(scores) / len(scores)
        low, high = wilson(accuracy, len(scores))
        names = dict(zip(("suite", "tokens", "condition"), key, strict=True))
        rows.append({**names, "examples": len(scores), "accuracy": accuracy, "low": low, "high": high})
    return rows
