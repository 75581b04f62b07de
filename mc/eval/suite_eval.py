"""Long-context suites asked through sessions: is what a long prompt hides found again?

The prompt is read as a history under each of `mc.eval.session_baselines`; then the model continues greedily (`generate`), or each token of
the right reply is checked for being the likeliest (`likelihood`). Shapes: `B` rows, `n` tokens of a reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.eval.session_baselines import Condition, Opened, Reader, Spans, forced, joined
from mc.eval.text_eval import Effort
from mc.session.hooks import SessionHooks
from mc.train.controller import MCController
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.chat_eval import wilson
from nanochat.infer.engine import Engine
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.reply import stop_tokens
from nanochat.infer.sampling import Sampling
from nanochat.tasks.long.mqar import mqar
from nanochat.tasks.long.suite import DEFINITIONS, Example, Suite

Scoring = Literal["generate", "likelihood"]
MQAR = "mqar"
MQAR_PAIRS = 8


class Unfit(ValueError):
    """A suite has no prompts of a length."""


class Prediction(NamedTuple):
    """A reply under one condition to a prompt of `length` tokens; `prompt` is a hash of its tokens."""

    suite: str
    length: int
    condition: Condition
    prompt: str
    answer: str
    reply: str
    score: float


@dataclass(frozen=True)
class Asked:
    """A prompt as the model reads it, int64 [n], and what is right: the tokens of the reply; `needed` are tokens of the prompt."""

    tokens: Tensor
    answer: str
    reply: tuple[int, ...]
    needed: Spans
    score: Callable[[str], float]

    @property
    def hash(self) -> str:
        """Of the tokens."""
        return hashlib.blake2b(self.tokens.numpy().tobytes(), digest_size=8).hexdigest()


class Examiner:
    """Asks a memory: a base model (`chat` false) goes on with the prompt, a chat model is asked in its turn and given the beginning
    of its own."""

    def __init__(
        self,
        controller: MCController,
        tokenizer: Tokenizer,
        config: SessionConfig,
        conditions: Sequence[Condition],
        effort: Effort,
        chat: bool,
        scoring: Scoring = "generate",
        easy: bool = False,
        seed: int = 0,
        hooks: SessionHooks | None = None,
    ) -> None:
        self._controller, self._tokenizer, self._config = controller, tokenizer, config
        self._conditions, self._effort, self._chat, self._scoring = tuple(conditions), effort, chat, scoring
        self._easy, self._seed, self._hooks = easy, seed, hooks
        self._engine, self._step = Engine(controller.model), DecodeStep(controller.model)

    def run(self, suite: str, length: int) -> list[Prediction]:
        """What comes of `effort.examples` prompts of `length` tokens. Raises `Unfit` where there can be none."""
        if suite == MQAR:
            return list(self._mqar(length))
        tasks = Suite(suite, self._tokenizer.encode, easy=self._easy)
        predictions: list[Prediction] = []
        waiting: list[tuple[Asked, Condition, Opened]] = []
        try:
            examples = tasks.examples(self._effort.examples, length, self._seed)
        except ValueError as error:
            raise Unfit(str(error)) from error
        for number, example in enumerate(examples):
            asked = self._asked(tasks, example)
            reader = Reader(self._controller, self._config, self._effort.full_limit, self._step, self._hooks)
            reader.read(asked.tokens)
            for condition in self._conditions:
                opened = reader.open(condition, self._seed + number, asked.needed)
                if opened is not None:
                    waiting.append((asked, condition, opened))
            if len(waiting) >= self._effort.rows:
                predictions += self._answer(suite, length, waiting, tasks.reply_tokens)
                waiting = []
        return predictions + self._answer(suite, length, waiting, tasks.reply_tokens)

    def _asked(self, suite: Suite, example: Example) -> Asked:
        encode, special = self._tokenizer.encode, self._tokenizer.special_tokens
        expected = DEFINITIONS[suite.name].task().reply(example.answers)
        if self._chat:
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
        """The predictions of histories that are open under conditions."""
        if not waiting:
            return []
        rows = joined(self._controller.model, [opened for *_, opened in waiting], self._step)
        if self._scoring == "generate":
            texts = [self._tokenizer.decode(reply) for reply in self._replies(rows, reply_tokens)]
            scores = [asked.score(text) for (asked, *_), text in zip(waiting, texts, strict=True)]
        else:
            likeliest = self._likeliest(rows, [asked.reply for asked, *_ in waiting])
            texts = [self._tokenizer.decode(reply) for reply in likeliest]
            scores = [float(reply == list(asked.reply)) for (asked, *_), reply in zip(waiting, likeliest, strict=True)]
        return [
            Prediction(suite, length, condition, asked.hash, asked.answer, text, score)
            for (asked, condition, _), text, score in zip(waiting, texts, scores, strict=True)
        ]

    def _replies(self, rows: Opened, reply_tokens: int) -> list[list[int]]:
        stop = stop_tokens(self._tokenizer)
        replies: list[list[int]] = [[] for _ in range(rows.cache.rows)]
        for tokens in self._engine.resume(rows.cache, rows.hidden, Sampling(temperature=0, max_tokens=reply_tokens), stop):
            for reply, token in zip(replies, tokens, strict=True):
                if token is not None and token not in stop:
                    reply.append(token)
        return replies

    def _likeliest(self, rows: Opened, replies: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """The likeliest token in place of each of those of the right replies, behind those before it."""
        longest = max(map(len, replies))
        padded = torch.tensor([[*reply, *[0] * (longest - len(reply))] for reply in replies])
        tokens = torch.stack([self._controller.model.logits(hidden).argmax(-1).cpu() for hidden in forced(rows, padded)], dim=1)
        return [row[: len(reply)] for row, reply in zip(tokens.tolist(), replies, strict=True)]

    def _mqar(self, length: int) -> Iterator[Prediction]:
        """One prediction for each query; what stands after a query goes on being random."""
        model = self._controller.model
        length -= length % 2
        try:
            rows = mqar(self._effort.examples, length, self._seed, model.config.vocab_size, MQAR_PAIRS)
        except ValueError as error:
            raise Unfit(str(error)) from error
        for number, tokens in enumerate(torch.from_numpy(np.ascontiguousarray(rows.tokens))):
            queries = np.argsort(rows.asked[number])
            for condition in self._conditions:
                reader = Reader(self._controller, self._config, self._effort.full_limit, self._step, self._hooks)
                first = int(rows.asked[number][queries[0]]) + 1
                reader.read(tokens[:first])
                needed = [(int(place), int(place) + 2) for place in rows.pairs[number]]
                if condition == "full" and length > self._effort.full_limit:
                    continue
                opened = reader.open(condition, self._seed + number, needed)
                assert opened is not None
                hidden, read = opened.hidden, first
                for query in queries:
                    upto = int(rows.asked[number][query]) + 1
                    if upto > read:
                        hidden, read = opened.cache.append(tokens[None, read:upto]), upto
                    said, right = int(model.logits(hidden).argmax()), int(rows.values[number][query])
                    prompt = hashlib.blake2b(tokens[:upto].numpy().tobytes(), digest_size=8).hexdigest()
                    yield Prediction(MQAR, length, condition, prompt, f"token {right}", f"token {said}", float(said == right))


def suite_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Accuracy with its 95 % interval by suite, length and condition."""
    rows = []
    for key in dict.fromkeys((p.suite, p.length, p.condition) for p in predictions):
        scores = [p.score for p in predictions if (p.suite, p.length, p.condition) == key]
        accuracy = sum(scores) / len(scores)
        low, high = wilson(accuracy, len(scores))
        names = dict(zip(("suite", "tokens", "condition"), key, strict=True))
        rows.append({**names, "examples": len(scores), "accuracy": accuracy, "low": low, "high": high})
    return rows
