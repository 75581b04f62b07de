"""Rollouts for policy gradients: replies sampled from the current model, weighted by their advantages.

Step `s` takes prompts `[s·P, (s+1)·P)` of the task, and samples `S` replies to each. A reply's advantage is its reward minus the
mean of its group (the baseline of RLOO and GRPO, arXiv 2402.14740 and 2402.03300), by default not divided by their deviation
(Dr. GRPO, arXiv 2503.20783). Sampling is on-policy, so there is no importance ratio to clip. Tool output is masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from nanochat.common import UserError
from nanochat.data.chat_template import render_prompt
from nanochat.data.dataloader import permute
from nanochat.data.rows import Loader, masked, masked_rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import check, flag
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import Completion, ReplyRequest
from nanochat.infer.sampling import LEAST_TEMPERATURE, Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from nanochat.runtime.device import Runtime
from nanochat.tasks.grading import reply_text
from nanochat.tasks.task import Task

MOST_REPLIES = 1_000_000  # of a step


@dataclass
class RolloutFlags:
    """Prompts per step, sampling, and advantages."""

    prompts_per_step: int = flag(16, "prompts per step, over all processes: P", unit="prompts")
    samples: int = flag(16, "replies per prompt: S", unit="replies")
    temperature: float = flag(1.0, "sampling temperature; any other than 1 makes sampling off-policy")
    max_tokens: int = flag(256, "maximum length of a reply", unit="tokens")
    decode_rows: int = flag(64, "replies that a process decodes at the same time", unit="replies")
    advantage: Literal["mean", "std"] = flag("mean", "mean = reward minus the group's mean; std = that divided by its standard deviation")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "must be at least 1", "prompts_per_step", "max_tokens", "decode_rows")
        check(self, lambda value: value >= 2, "must be at least 2: a reply is compared with the others", "samples")
        if (replies := self.prompts_per_step * self.samples) > MOST_REPLIES:
            raise ValueError(f"prompts_per_step × samples is {replies}; it must be at most {MOST_REPLIES:,}, which are held in memory")
        least = LEAST_TEMPERATURE
        check(self, lambda value: least <= value < float("inf"), f"must be at least {least}", "temperature")


class _Step(NamedTuple):
    number: int
    rows: np.ndarray  # int32 [P·S, T+1]
    rewards: np.ndarray  # fp32 [P, S]


class Rollouts(Loader):
    """`Loader` of the rows of each step: prompts and sampled replies of the current `model`.

    A reply that does not fit the row is truncated. `figures` are means over the steps since the last call.
    """

    ahead = 0

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, task: Task, flags: RolloutFlags, seq_len: int, seed: int, runtime: Runtime, tools: Tools
    ) -> None:
        self._model, self._tokenizer, self._task, self._flags = model, tokenizer, task, flags
        self._tools, self._runtime, self._seed = tools, runtime, seed
        self.seq_len = seq_len
        self.rows_per_epoch = len(task) * flags.samples
        self.fingerprint = task.fingerprint
        self._made: _Step | None = None
        self._figures: list[dict[str, float]] = []
        self._stop = stop_tokens(tokenizer)

    @property
    def rows_per_step(self) -> int:
        """P · S."""
        return self._flags.prompts_per_step * self._flags.samples

    def rows(self, a: int, b: int) -> np.ndarray:
        """See `Loader`; the range must be one step."""
        step, rest = divmod(a, self.rows_per_step)
        if rest or b != a + self.rows_per_step:
            raise ValueError(f"invalid row range {a}..{b}; expected one step of {self.rows_per_step} rows")
        if self._made is None or self._made.number != step:
            self._made = self._make(step)
        return self._made.rows

    def weights(self, a: int, b: int) -> np.ndarray:
        """The advantages of the replies: see `Loader`."""
        self.rows(a, b)
        return advantages(self._made.rewards, self._flags.advantage).reshape(-1)

    def figures(self) -> dict[str, float]:
        """See `Loader`: mean reward, fraction of groups whose rewards differ, length of replies, fraction that ended."""
        steps, self._figures = self._figures, []
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} if steps else {}

    def _make(self, step: int) -> _Step:
        P, S, world = self._flags.prompts_per_step, self._flags.samples, self._runtime.world_size
        mine = slice(self._runtime.rank * P // world, (self._runtime.rank + 1) * P // world)
        conversations = [self._task[i] for i in self._examples(step * P, P)[mine].tolist()]
        prompts = [render_prompt(self._tokenizer, conversation) for conversation in conversations]
        with self._model.gathered():
            replies = self._reply(prompts, _seed(self._seed, step), mine.start * S)
        rewards = np.array(self._grade(conversations, replies), np.float32).reshape(-1, S)
        rows = masked_rows(len(replies), self.seq_len, self._tokenizer.bos_id)
        for i, (row, reply) in enumerate(zip(rows, replies, strict=True)):
            prompt = prompts[i // S]
            tokens = masked([*prompt, *reply.tokens], [False] * len(prompt) + [not forced for forced in reply.forced])[: len(row)]
            row[: len(tokens)] = tokens
        rows, rewards = self._from_all(rows), self._from_all(rewards)
        lengths = (rows >= 0).sum(1)
        self._figures.append(
            {
                "rl/reward": float(rewards.mean()),
                "rl/groups_that_differ": float((rewards.std(1) > 0).mean()),
                "rl/reply_tokens": float(lengths.mean()),
                "rl/ended": sum(reply.ended for reply in replies) / len(replies),
            }
        )
        return _Step(step, rows, rewards)

    def _examples(self, first: int, count: int) -> np.ndarray:
        """Indices of the examples at positions `first … first + count - 1`, int64; each epoch has another order."""
        epochs, places = np.divmod(np.arange(first, first + count), len(self._task))
        return np.concatenate([permute(places[epochs == e], len(self._task), f"rl:{self._seed}:{e}") for e in np.unique(epochs)])

    def _reply(self, prompts: Sequence[Sequence[int]], seed: int, first_stream: int) -> list[Completion]:
        """S replies to each prompt, grouped by prompt."""
        longest = max(map(len, prompts))
        room = self.seq_len + 1 - longest
        if room < 1:
            raise UserError(f"a prompt of {longest} tokens leaves no room for a reply in rows of {self.seq_len}; use longer rows")
        flags = self._flags
        sampling = Sampling(temperature=flags.temperature, top_k=0, max_tokens=min(flags.max_tokens, room), seed=seed)
        batcher = Batcher(self._model, flags.decode_rows, self._tools)
        requests = [
            ReplyRequest(prompt, sampling, self._stop, flags.samples, first_stream + i * flags.samples) for i, prompt in enumerate(prompts)
        ]
        return [reply for replies in batcher.complete(requests).values() for reply in replies]

    def _grade(self, conversations: Sequence[dict[str, Any]], replies: Sequence[Completion]) -> list[float]:
        texts = [reply_text(self._tokenizer, reply.said) for reply in replies]
        asked = [conversations[i // self._flags.samples] for i in range(len(replies))]
        graded = self._task.grade_all(asked, texts)
        # A truncated reply gets no reward.
        return [reward if reply.ended else 0.0 for reward, reply in zip(graded, replies, strict=True)]

    def _from_all(self, mine: np.ndarray) -> np.ndarray:
        """Concatenates the arrays of all processes."""
        if self._runtime.world_size == 1:
            return mine
        here = torch.from_numpy(mine).to(self._runtime.device)
        parts = [torch.empty_like(here) for _ in range(self._runtime.world_size)]
        dist.all_gather(parts, here)
        return torch.cat(parts).cpu().numpy()


def advantages(rewards: np.ndarray, kind: Literal["mean", "std"]) -> np.ndarray:
    """Advantages, fp32 [P,S], of rewards [P,S]; 0 in a group whose rewards are all equal."""
    centred = rewards - rewards.mean(1, keepdims=True)
    if kind == "mean":
        return centred.astype(np.float32)
    deviation = rewards.std(1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0).astype(np.float32)


def _seed(seed: int, step: int) -> int:
    """Seed of a step's replies."""
    return int.from_bytes(hashlib.blake2b(f"rl:{seed}:{step}".encode(), digest_size=8).digest(), "little") >> 1
