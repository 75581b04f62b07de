"""Evaluation of chat models: accuracy by task with confidence intervals, and ChatCORE over all.

A categorical task compares the logits of its letters at the beginning of the reply; for a generative one the model replies, with
tools, and the task grades the text. ChatCORE is the mean over tasks of (accuracy − chance) / (1 − chance): 0 is guessing, 1 is
perfect.

Shapes: `b` prompts in a batch, `T` tokens of the longest, `L` letters, `V` vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.data.chat_template import render_prompt
from nanochat.data.dataloader import permute
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.core import any_shape, by_length, padded_forward, rank_and_world_size
from nanochat.flags import flag
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from nanochat.tasks.grading import reply_text
from nanochat.tasks.task import Conversation, Task

Z = 1.959964  # standard normal quantile for 95 %


@dataclass
class ChatEvalFlags:
    """Number of problems, and sampling of the replies."""

    max_problems: int = flag(-1, "problems per task, chosen at random; -1 = all", unit="problems")
    batch_size: int = flag(32, "prompts in a forward, and replies decoded at the same time, per process", unit="prompts")
    num_samples: int = flag(1, "replies to each problem; with k > 1, pass@k (any of the k is right) is reported too", unit="replies")
    temperature: float = flag(0.0, "sampling temperature; 0 = greedy", alias=("-t",))
    top_k: int = flag(50, "top-k: sample from the k most likely tokens; 0 = off", unit="tokens", alias=("-k",))
    max_new_tokens: int | None = flag(None, "maximum length of a reply; None = that of the task", unit="tokens")
    seed: int = flag(42, "seed of the sampling and of the tasks")

    def __post_init__(self) -> None:
        if self.max_problems < 1 and self.max_problems != -1:
            raise ValueError(f"invalid max_problems {self.max_problems}: must be at least 1, or -1 for all")
        for name in ("batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"invalid {name} {getattr(self, name)}: must be at least 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"invalid max_new_tokens {self.max_new_tokens}: must be at least 1")
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError("num_samples above 1 needs a temperature above 0: greedy decoding gives the same reply each time")
        self.sampling(1)

    def sampling(self, max_tokens: int) -> Sampling:
        """Sampling parameters for a task. Raises `ValueError` for an invalid temperature, top_k or seed."""
        return Sampling(self.temperature, self.top_k, max_tokens=self.max_new_tokens or max_tokens, seed=self.seed)


class Interval(NamedTuple):
    """Bounds of a proportion, 0 … 1."""

    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """Result of a task. `pass_at_k` is None for one reply to each problem; `sample` is a problem and a reply."""

    task: str
    kind: str
    problems: int
    accuracy: float
    chance: float
    pass_at_k: float | None
    seconds: float
    sample: dict[str, str]

    @property
    def interval(self) -> Interval:
        """95 % interval of the accuracy."""
        return wilson(self.accuracy, self.problems)

    @property
    def centered(self) -> float:
        """Centered accuracy: 0 is guessing, 1 is perfect."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    def row(self) -> dict[str, Any]:
        """Values for a table."""
        low, high = self.interval
        row = {
            "task": self.task, "kind": self.kind, "problems": self.problems, "accuracy": self.accuracy, "low": low, "high": high,
            "chance": self.chance, "centered": self.centered, "seconds": self.seconds,
        }  # fmt: skip
        return row | ({} if self.pass_at_k is None else {"pass_at_k": self.pass_at_k})


class ScoredReply(NamedTuple):
    """A reply to grade. `ended`: it was not cut off; `shown`: the whole reply, including tool calls."""

    text: str
    ended: bool
    shown: str


def wilson(share: float, count: int) -> Interval:
    """95 % interval of a proportion of `count` trials (Wilson, J. Am. Stat. Assoc. 22, 1927). Raises `ValueError` for no trial."""
    if count < 1:
        raise ValueError("a proportion needs at least one trial")
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    spread = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    # At the ends the bound is the proportion itself, except for rounding.
    return Interval(centre - spread if share > 0 else 0.0, centre + spread if share < 1 else 1.0)


def chat_core(results: Sequence[TaskResult]) -> float:
    """The mean of the centered accuracies."""
    return sum(result.centered for result in results) / len(results)


def evaluate_task(model: GPT, tokenizer: Tokenizer, task: Task, flags: ChatEvalFlags) -> TaskResult:
    """Evaluates one task; all processes share the problems. Raises `ValueError` for a task that cannot grade replies."""
    if task.kind == "chat":
        raise ValueError(f"{task.name} cannot grade replies")
    begin = time.monotonic()
    rank, world_size = rank_and_world_size()
    chosen = choose_problems(task, flags.max_problems)
    mine = [task[int(i)] for i in chosen[rank::world_size]]
    ask = choose_letters if task.kind == "categorical" else reply
    replies = ask(model, tokenizer, task, mine, flags)
    right = solved(task, mine, replies).double()
    sums = torch.stack([right.mean(1).sum(), right.amax(1).sum(), torch.tensor(sum(map(task.chance, mine)), dtype=torch.float64)])
    if world_size > 1:
        sums = sums.to(model.wte.weight.device)
        dist.all_reduce(sums)
    accuracy, any_right, chance = (sums / len(chosen)).tolist()
    shown = {"prompt": mine[0]["messages"][-2]["content"], "text": replies[0].shown} if mine else {"prompt": "", "text": ""}
    pass_at_k = any_right if right.shape[1] > 1 else None
    return TaskResult(task.name, task.kind, len(chosen), accuracy, chance, pass_at_k, time.monotonic() - begin, shown)


def solved(task: Task, conversations: Sequence[Conversation], replies: Sequence[ScoredReply]) -> Tensor:
    """Correctness of S replies to each of n problems, grouped by problem: bool [n,S].

    A reply that was cut off, or has a grade below 1, is wrong.
    """
    S = max(1, len(replies) // max(1, len(conversations)))
    right = torch.zeros(len(replies), dtype=torch.bool)
    ended = [i for i, reply in enumerate(replies) if reply.ended]
    graded = task.grade_all([conversations[i // S] for i in ended], [replies[i].text for i in ended])
    right[ended] = torch.tensor([grade == 1 for grade in graded], dtype=torch.bool)
    return right.view(len(conversations), S)


def choose_problems(task: Task, most: int) -> np.ndarray:
    """Numbers of at most `most` problems (−1 = all), int64, ascending: a random choice, because a dataset may be sorted."""
    numbers = np.arange(len(task))
    if most == -1 or most >= len(task):
        return numbers
    return numbers[:most] if task.endless else np.sort(permute(numbers[:most], len(task), f"chat_eval {task.name}"))


@torch.no_grad()
def choose_letters(
    model: GPT, tokenizer: Tokenizer, task: Task, conversations: Sequence[Conversation], flags: ChatEvalFlags
) -> list[ScoredReply]:
    """The most likely of each problem's letters at the beginning of the reply. A prompt that is too long loses its beginning."""
    device, longest = model.wte.weight.device, model.config.max_seq_len
    prompts = [render_prompt(tokenizer, conversation)[-longest:] for conversation in conversations]
    letters = [[_one_token(tokenizer, letter) for letter in conversation["letters"]] for conversation in conversations]
    chosen = [0] * len(prompts)
    with any_shape(model):
        for batch in by_length([len(prompt) for prompt in prompts], lambda _: flags.batch_size):
            _, hidden = padded_forward(model, [prompts[i] for i in batch])
            last = torch.tensor([len(prompts[i]) - 1 for i in batch], device=device)
            logits = model.logits(hidden[torch.arange(len(batch), device=device), last]).float()  # (b, V)
            L = max(len(letters[i]) for i in batch)
            ids = torch.tensor([letters[i] + [-1] * (L - len(letters[i])) for i in batch], device=device)  # (b, L)
            scores = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, float("-inf"))
            for i, letter in zip(batch, scores.argmax(1).tolist(), strict=True):
                chosen[i] = letter
    said = [conversation["letters"][letter] for conversation, letter in zip(conversations, chosen, strict=True)]
    return [ScoredReply(letter, True, letter) for letter in said]


def reply(model: GPT, tokenizer: Tokenizer, task: Task, conversations: Sequence[Conversation], flags: ChatEvalFlags) -> list[ScoredReply]:
    """`num_samples` replies to each problem, grouped by problem, decoded in batches and with tools."""
    prompts = [render_prompt(tokenizer, conversation) for conversation in conversations]
    sampling, stop = flags.sampling(task.reply_tokens), stop_tokens(tokenizer)
    requests = [ReplyRequest(prompt, sampling, stop, flags.num_samples) for prompt in prompts]
    longest_first = sorted(requests, key=lambda request: -len(request.prompt))  # what takes most device memory comes first
    replies = Batcher(model, flags.batch_size, Tools(tokenizer)).complete(longest_first)
    ordered = [each for request in requests for each in replies[request.id]]
    return [ScoredReply(reply_text(tokenizer, each.said), each.ended, tokenizer.decode(each.said)) for each in ordered]


def _one_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ValueError(f"invalid letter {letter!r} of a categorical task: it is {len(ids)} tokens; expected one")
    return ids[0]


def evaluate_tasks(
    model: GPT, tokenizer: Tokenizer, tasks: Sequence[Task], flags: ChatEvalFlags, say: Callable[[str], None] = print
) -> list[TaskResult]:
    """Evaluates one task after the other; prints a line for each with `say`."""
    results = []
    for task in tasks:
        result = evaluate_task(model, tokenizer, task, flags)
        low, high = result.interval
        more = "" if result.pass_at_k is None else f", pass@{flags.num_samples} {result.pass_at_k:.4f}"
        count = f"{result.problems} problem{'s' * (result.problems > 1)}"
        say(f"{task.name}: {result.accuracy:.4f} ({low:.4f} … {high:.4f}) of {count}{more}, {result.seconds:.1f} s")
        results.append(result)
    return results
