"""CORE: the mean centered accuracy over the tasks of the DCLM bundle (arXiv 2406.11794).

An example with several options is solved if the right one has the lowest loss per token; one with a single continuation if
greedy decoding gives it. Centered: 0 is guessing, 1 is perfect. `python -m nanochat.core_eval download` gets the bundle.

Shapes: `b` options in a batch, `T` tokens of the longest, `N` scored positions of all, `D` width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.bits_per_byte import never
from nanochat.eval.core_tasks import CoreTask, Option, bundle_folder, options, read_tasks
from nanochat.model.attention import eager_backend
from nanochat.model.gpt import GPT

HEAD_POSITIONS = 1024  # whose logits exist at the same time
EXAMPLES_AT_A_TIME = 256  # whose options are sorted by length and batched


@dataclass(frozen=True)
class CoreResult:
    """`core` is the mean of `centered`; accuracies are by task, 0 … 1."""

    core: float
    accuracy: dict[str, float]
    centered: dict[str, float]


def evaluate_core(
    model: GPT,
    tokenizer: Tokenizer,
    batch_tokens: int,
    max_per_task: int = -1,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = never,
) -> CoreResult | None:
    """Evaluates the bundle in `folder` (default: the downloaded one); all processes share the examples.

    At most `max_per_task` examples of each task (−1 = all), about `batch_tokens` tokens in a forward. Prompts longer than the
    model's `max_seq_len` lose their beginning. None if `should_stop()` became true in any process. Raises `UserError` if the
    bundle is missing or not whole.
    """
    accuracy, centered = {}, {}
    for task in read_tasks(folder or bundle_folder()):
        begin = time.monotonic()
        result = evaluate_task(model, tokenizer, task, batch_tokens, max_per_task, should_stop)
        if result is None:
            return None
        accuracy[task.label] = result
        centered[task.label] = (result - task.baseline) / (1 - task.baseline)
        say(
            f"{task.label} ({task.shots}-shot {task.kind}): accuracy {result:.4f}, "
            f"centered {centered[task.label]:.4f}, {time.monotonic() - begin:.1f} s"
        )
    return CoreResult(sum(centered.values()) / len(centered), accuracy, centered)


def evaluate_task(
    model: GPT,
    tokenizer: Tokenizer,
    task: CoreTask,
    batch_tokens: int,
    max_examples: int = -1,
    should_stop: Callable[[], bool] = never,
) -> float | None:
    """Accuracy in one task, 0 … 1; None if stopped. See `evaluate_core`."""
    device = model.wte.weight.device
    examples = task.examples(max_examples)
    rank, world_size = rank_and_world_size()
    mine = range(rank, len(examples), world_size)
    solved, stopped = 0, False
    for begin in range(0, len(mine), EXAMPLES_AT_A_TIME):
        if should_stop():
            stopped = True
            break
        several = {index: options(task, tokenizer, examples, index) for index in mine[begin : begin + EXAMPLES_AT_A_TIME]}
        scores = iter(score(model, [option for group in several.values() for option in group], batch_tokens).tolist())
        for index, group in several.items():
            results = [next(scores) for _ in group]
            if task.kind == "language_modeling":
                solved += int(results[0][1])
            else:
                nats = [result[0] for result in results]
                solved += nats.index(min(nats)) == examples[index]["gold"]
    counts = torch.tensor([solved, stopped], device=device)
    if world_size > 1:
        dist.all_reduce(counts)
    return None if counts[1] else counts[0].item() / len(examples)


def rank_and_world_size() -> tuple[int, int]:
    """Rank and world size of this process; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@torch.no_grad()
def score(model: GPT, several: Sequence[Option], batch_tokens: int) -> Tensor:
    """fp32 [options, 2]: mean nats per scored token, and 1 if each of them is the most likely token, else 0."""
    longest = model.config.max_seq_len
    rows = [option.tokens[-longest:] for option in several]
    starts = [max(1, option.start - (len(option.tokens) - len(row))) for option, row in zip(several, rows, strict=True)]
    scores = torch.empty(len(rows), 2)
    with any_shape(model):
        for batch in by_length([len(row) for row in rows], lambda longest: max(1, batch_tokens // longest)):
            scores[batch] = _score_batch(model, [rows[i] for i in batch], [starts[i] for i in batch]).cpu()
    return scores


def by_length(lengths: Sequence[int], size_of: Callable[[int], int]) -> Iterator[list[int]]:
    """Batches of rows of similar length, `size_of(longest)` rows each; the longest first, so that a lack of device memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = size_of(lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _score_batch(model: GPT, rows: list[list[int]], starts: list[int]) -> Tensor:
    """Scores fp32 [b,2] of rows that are scored from their starts on."""
    device = model.wte.weight.device
    tokens, hidden = padded_forward(model, rows)
    first = torch.tensor(starts, device=device)
    count = torch.tensor([len(row) for row in rows], device=device) - first
    position = torch.arange(tokens.shape[1], device=device)
    at = (position >= first[:, None] - 1) & (position < (first + count)[:, None] - 1)  # (b, T): predicts a scored token
    row, place = at.nonzero(as_tuple=True)  # (N,)
    sums = torch.zeros(len(rows), 2, device=device)
    for some in torch.arange(len(row), device=device).split(HEAD_POSITIONS):
        targets = tokens[row[some], place[some] + 1]
        logits = model.logits(hidden[row[some], place[some]])
        both = torch.stack([F.cross_entropy(logits, targets, reduction="none"), (logits.argmax(-1) == targets).float()], dim=1)
        sums.index_add_(0, row[some], both)
    return torch.stack([sums[:, 0] / count, (sums[:, 1] == count).float()], dim=1)


def padded_forward(model: GPT, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(tokens [b,T], hidden states [b,T,D]) of `rows`, padded at the end, which no earlier token sees."""
    T = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[0] * (T - len(row))] for row in rows], device=model.wte.weight.device)
    return tokens, model.backbone(model.embed(tokens), model.rotary(0, T))


@contextmanager
def any_shape(model: GPT) -> Iterator[None]:
    """Avoids a compilation for each shape of batch: layers run eagerly, SDPA replaces FlexAttention."""
    backend = model.backend
    model.backend = eager_backend(backend)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.backend = backend
