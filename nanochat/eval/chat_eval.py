"""What a chat model can do: accuracy by task with confidence intervals, and ChatCORE over all.

A categorical task is read off the logits of its letters where the reply begins; for a generative one the model replies, tools
included, and the task grades the text. ChatCORE is the mean over tasks of (accuracy − chance) / (1 − chance): 0 is guessing,
1 is perfect.

Shapes: `b` prompts in a batch, `T` tokens of the longest, `L` letters, `V` vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.data.chat_template import render_prompt
from nanochat.data.dataloader import permute
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.core import any_shape
from nanochat.flags import flag
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.reply import stop_tokens
from nanochat.infer.request import ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from nanochat.model.gpt import GPT
from nanochat.tasks.grading import reply_text
from nanochat.tasks.task import Conversation, Task

Z = 1.959964  # of a normal distribution, for 95 %


@dataclass
class ChatEvalFlags:
    """How much is asked, and how replies are drawn."""

    max_problems: int = flag(-1, "problems of each task, chosen at random; -1 = all", unit="problems")
    batch_size: int = flag(32, "prompts in a forward, and replies drawn at the same time, of one process", unit="prompts")
    num_samples: int = flag(1, "replies to each problem; with k > 1, pass@k is reported too: any of the k is right", unit="replies")
    temperature: float = flag(0.0, "of the replies; 0 = always the likeliest token", alias=("-t",))
    top_k: int = flag(50, "choose among so many likeliest tokens; 0 = all", unit="tokens", alias=("-k",))
    max_new_tokens: int | None = flag(None, "length of a reply at most; None = what the task needs", unit="tokens")
    seed: int = flag(42, "seed of the replies and of the tasks")

    def __post_init__(self) -> None:
        if self.max_problems < 1 and self.max_problems != -1:
            raise ValueError(f"max_problems is {self.max_problems}; give at least 1, or -1 for all")
        for name in ("batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError("num_samples is above 1 but temperature is 0, which gives the same reply each time; give a temperature")
        self.sampling(1)

    def sampling(self, max_tokens: int) -> Sampling:
        """How a reply of a task is drawn. Raises `ValueError` for a wrong temperature, top_k or seed."""
        return Sampling(self.temperature, self.top_k, max_tokens=self.max_new_tokens or max_tokens, seed=self.seed)


class Interval(NamedTuple):
    """Bounds of a share, 0 … 1."""

    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """How a task went. `pass_at_k` is None for one reply to each problem; `sample` is a problem and a reply."""

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
        """Of the accuracy, 95 %."""
        return wilson(self.accuracy, self.problems)

    @property
    def centered(self) -> float:
        """0 is guessing, 1 is perfect."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    def row(self) -> dict[str, Any]:
        """For a table."""
        low, high = self.interval
        row = {
            "task": self.task, "kind": self.kind, "problems": self.problems, "accuracy": self.accuracy, "low": low, "high": high,
            "chance": self.chance, "centered": self.centered, "seconds": self.seconds,
        }  # fmt: skip
        return row | ({} if self.pass_at_k is None else {"pass_at_k": self.pass_at_k})


class ScoredReply(NamedTuple):
    """What a reply says, whether it came to an end, and all of it as it is shown, tool calls included."""

    text: str
    ended: bool
    shown: str


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a share of `count` trials (Wilson, J. Am. Stat. Assoc. 22, 1927). Raises `ValueError` for no trial."""
    if count < 1:
        raise ValueError("there is no share of nothing")
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    spread = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    # At the ends the bound is the share itself, but for rounding.
    return Interval(centre - spread if share > 0 else 0.0, centre + spread if share < 1 else 1.0)


def chat_core(results: Sequence[TaskResult]) -> float:
    """The mean of the centered accuracies."""
    return sum(result.centered for result in results) / len(results)


def evaluate_task(model: GPT, tokenizer: Tokenizer, task: Task, flags: ChatEvalFlags) -> TaskResult:
    """Asks the task's problems, shared among all processes. Raises `ValueError` for a task that grades nothing."""
    if task.kind == "chat":
        raise ValueError(f"{task.name} has nothing to grade a reply by")
    begin = time.monotonic()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
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
    """Which of the S replies to each of n problems, those of a problem one after the other, are right: bool [n,S].

    A reply that did not come to an end has not answered, and a grade below 1 is not right.
    """
    S = max(1, len(replies) // max(1, len(conversations)))
    right = torch.zeros(len(replies), dtype=torch.bool)
    ended = [i for i, reply in enumerate(replies) if reply.ended]
    graded = task.grade_all([conversations[i // S] for i in ended], [replies[i].text for i in ended])
    right[ended] = torch.tensor([grade == 1 for grade in graded], dtype=torch.bool)
    return right.view(len(conversations), S)


def choose_problems(task: Task, most: int) -> np.ndarray:
    """Numbers of at most `most` problems (−1: all), int64, ascending. A data set may be sorted, so they come from all over it."""
    numbers = np.arange(len(task))
    if most == -1 or most >= len(task):
        return numbers
    return numbers[:most] if task.endless else np.sort(permute(numbers[:most], len(task), f"chat_eval {task.name}"))


@torch.no_grad()
def choose_letters(
    model: GPT, tokenizer: Tokenizer, task: Task, conversations: Sequence[Conversation], flags: ChatEvalFlags
) -> list[ScoredReply]:
    """The likeliest of each problem's letters where the reply begins. A prompt that is too long loses its beginning."""
    device, longest = model.wte.weight.device, model.config.max_seq_len
    prompts = [render_prompt(tokenizer, conversation)[-longest:] for conversation in conversations]
    letters = [[_one_token(tokenizer, letter) for letter in conversation["letters"]] for conversation in conversations]
    chosen = [0] * len(prompts)
    with any_shape(model):
        for batch in _by_length(prompts, flags.batch_size):
            rows, T = [prompts[i] for i in batch], max(len(prompts[i]) for i in batch)
            tokens = torch.tensor([row + [0] * (T - len(row)) for row in rows], device=device)  # (b, T); padding is seen by none before it
            hidden = model.backbone(model.embed(tokens), model.rotary(0, T))
            last = torch.tensor([len(row) - 1 for row in rows], device=device)
            logits = model.logits(hidden[torch.arange(len(rows), device=device), last]).float()  # (b, V)
            L = max(len(letters[i]) for i in batch)
            ids = torch.tensor([letters[i] + [-1] * (L - len(letters[i])) for i in batch], device=device)  # (b, L)
            scores = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, float("-inf"))
            for i, letter in zip(batch, scores.argmax(1).tolist(), strict=True):
                chosen[i] = letter
    said = [conversation["letters"][letter] for conversation, letter in zip(conversations, chosen, strict=True)]
    return [ScoredReply(letter, True, letter) for letter in said]


def reply(model: GPT, tokenizer: Tokenizer, task: Task, conversations: Sequence[Conversation], flags: ChatEvalFlags) -> list[ScoredReply]:
    """`num_samples` replies to each problem, those of a problem one after the other, many drawn at a time, with the calculator."""
    prompts = [render_prompt(tokenizer, conversation) for conversation in conversations]
    sampling, stop = flags.sampling(task.reply_tokens), stop_tokens(tokenizer)
    requests = [ReplyRequest(prompt, sampling, stop, flags.num_samples) for prompt in prompts]
    longest_first = sorted(requests, key=lambda request: -len(request.prompt))  # what takes most device memory comes first
    replies = Batcher(model, flags.batch_size, Tools(tokenizer)).complete(longest_first)
    ordered = [each for request in requests for each in replies[request.id]]
    return [ScoredReply(reply_text(tokenizer, each.said), each.ended, tokenizer.decode(each.said)) for each in ordered]


def _by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of prompts of like length, the longest first."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    return (order[begin : begin + size] for begin in range(0, len(order), size))


def _one_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ValueError(f"the answer {letter!r} is {len(ids)} tokens; the letters of a categorical task must be one each")
    return ids[0]


def evaluate_tasks(
    model: GPT, tokenizer: Tokenizer, tasks: Sequence[Task], flags: ChatEvalFlags, say: Callable[[str], None] = print
) -> list[TaskResult]:
    """One task after the other; `say` is told how each went."""
    results = []
    for task in tasks:
        result = evaluate_task(model, tokenizer, task, flags)
        low, high = result.interval
        more = "" if result.pass_at_k is None else f", pass@{flags.num_samples} {result.pass_at_k:.4f}"
        count = f"{result.problems} problem{'s' * (result.problems > 1)}"
        say(f"{task.name}: {result.accuracy:.4f} ({low:.4f} … {high:.4f}) of {count}{more}, {result.seconds:.1f} s")
        results.append(result)
    return results
