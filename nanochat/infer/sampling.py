"""From logits to tokens: temperature, top-k, top-p, and random numbers that do not depend on who shares the batch.

Shapes: `B` rows, `V` vocabulary, `K` candidates. Each row has settings of its own and draws one uniform number per token
from a generator of its own, so that the same seed gives the same text whatever else is generated beside it, on any device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.flags import flag

BLOCK = 64  # random numbers drawn per row at a time
TIE_STEP = 2.0**-40  # what a place in the order of equals counts against a logit: less than what fp32 tells apart
FOLDS = 16  # the vocabulary lies in so many lines below each other when its greatest are looked for
LEAST_TEMPERATURE = 1e-4  # below it fp32 no longer tells the likeliest tokens apart, so 0 says the same
SMALL = 16384  # logits that are sorted as they are: faster than dealing with lines


@dataclass
class Sampling:
    """How tokens are chosen, and how many."""

    temperature: float = flag(0.8, "flattens (> 1) or sharpens (< 1) the distribution; 0 = always the likeliest token", alias=("-t",))
    top_k: int = flag(50, "choose among so many likeliest tokens; 0 = all", unit="tokens", alias=("-k",))
    top_p: float = flag(1.0, "choose among the likeliest tokens that together have this probability; 1 = all")
    max_tokens: int = flag(256, "length of a reply at most", unit="tokens")
    seed: int = flag(42, "seed of the choices")

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < float("inf")):
            raise ValueError(f"temperature is {self.temperature}; it must be 0, or at least {LEAST_TEMPERATURE}")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to 2^63 − 1")


class Settings:
    """The `samplings` of B rows as tensors on `device`, for `choose`."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self.greedy = all(s.temperature == 0 for s in samplings)
        # A temperature of 0 is a choice among one.
        limits = [(1, 1.0, 1.0) if s.temperature == 0 else (s.top_k, s.temperature, s.top_p) for s in samplings]
        ranked = [i for i, (k, _, p) in enumerate(limits) if k > 0 or p < 1]
        whole = sorted(set(range(len(limits))) - set(ranked))
        # Rows that choose among all tokens need no order among them: None for none of the rows, a slice for all of them.
        self.ranked, self.whole = (_rows(rows, len(limits), device) for rows in (ranked, whole))
        self.temperature = torch.tensor([[t] for _, t, _ in limits], dtype=torch.float32, device=device)  # (B, 1)
        self.candidates = max((limits[i][0] or 2**62 for i in ranked), default=0)  # K, before the size of the vocabulary bounds it
        self.top_k = torch.tensor([[k or 2**62] for k, _, _ in limits], device=device)  # (B, 1)
        cuts = any(limits[i][2] < 1 for i in ranked)
        self.top_p = torch.tensor([[p] for _, _, p in limits], dtype=torch.float32, device=device) if cuts else None  # (B, 1)


def _rows(rows: list[int], count: int, device: torch.device) -> Tensor | slice | None:
    if len(rows) == count:
        return slice(None)
    return torch.tensor(rows, device=device) if rows else None


def choose(logits: Tensor, uniforms: Tensor, settings: Settings, cap: Callable[[Tensor], Tensor] = Tensor.float) -> Tensor:
    """A token int64 [B] for each row of `logits` [B,V], by the random number in `uniforms`, fp32 [B] in [0, 1).

    `cap` is an increasing function that makes the logits, in fp32, out of what is given as such: it need not be applied to
    tokens that are out of the question. Top-p counts the probabilities that temperature and top-k leave. The choice is the
    inverse of the cumulative distribution at the random number, with equal logits in an order that is always the same. So a row's token
    depends on its own logits, number and settings alone.
    """
    if settings.greedy:
        return _greatest(logits, 1)[1][:, 0]
    if settings.whole is None:
        return _among_likeliest(logits, uniforms, settings, slice(None), cap)
    if settings.ranked is None:
        return _among_all(logits, uniforms, settings, slice(None), cap)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    tokens[settings.whole] = _among_all(logits, uniforms, settings, settings.whole, cap)
    tokens[settings.ranked] = _among_likeliest(logits, uniforms, settings, settings.ranked, cap)
    return tokens


def _among_all(logits: Tensor, uniforms: Tensor, settings: Settings, rows: Tensor | slice, cap: Callable[[Tensor], Tensor]) -> Tensor:
    logits = cap(logits[rows])
    # The greatest is subtracted first: a tiny temperature must not overflow.
    p = ((logits - logits.amax(-1, keepdim=True)) / settings.temperature[rows]).softmax(-1)
    return _draw(p.cumsum(-1), uniforms[rows])[:, 0]


def _among_likeliest(logits: Tensor, uniforms: Tensor, settings: Settings, rows: Tensor | slice, cap: Callable[[Tensor], Tensor]) -> Tensor:
    V = logits.shape[-1]
    K = min(settings.candidates, V)
    greatest, ids = _greatest(logits[rows], K)  # (b, K)
    greatest = cap(greatest)
    # No softmax: its sum, and so a row's choice at the margin, would depend on how many candidates its neighbours have.
    p = ((greatest - greatest[:, :1]) / settings.temperature[rows]).exp()
    p = p.masked_fill(torch.arange(K, device=p.device) >= settings.top_k[rows], 0.0)
    cumulative = p.cumsum(-1)
    if settings.top_p is not None:
        before = cumulative - p
        p = p.masked_fill(before >= settings.top_p[rows] * cumulative[:, -1:], 0.0)
        cumulative = p.cumsum(-1)
    return ids.gather(-1, _draw(cumulative, uniforms[rows]))[:, 0]


def _draw(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """The entry [b,1] that each row's number falls on. Numbers are < 1, so the target is below the total, and the first entry
    above it has a probability above zero."""
    return torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)


def _greatest(logits: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The K greatest of each row, from the greatest down, and their places.

    Of equal ones it is always the same that is greater, however many are asked for: in bf16 many are equal. The vocabulary lies
    in lines below each other, and the first column is greater than the second, in a column the first line.
    """
    B, V = logits.shape
    F = FOLDS if V % FOLDS == 0 else 1
    columns = V // F
    folded, ties = logits.view(B, F, columns), _ties(F, columns, logits.device)
    if V * B <= SMALL or columns < 4 * K:
        return (folded - ties).flatten(1).topk(K, dim=-1)
    # The K greatest are in the K columns with the greatest maxima. That leaves few to be sorted.
    chosen = (folded.amax(1) - ties[0]).topk(K, dim=-1, sorted=False).indices  # (B, K)
    few = folded.gather(2, chosen[:, None].expand(-1, F, -1)) - (ties[0][chosen][:, None] + ties[:, :1])  # (B, F, K)
    greatest, place = few.flatten(1).topk(K, dim=-1)
    return greatest, chosen.gather(1, place % K) + place // K * columns


@functools.lru_cache(maxsize=8)
def _ties(lines: int, columns: int, device: torch.device) -> Tensor:
    """What is subtracted from logits [lines, columns] so that none are equal."""
    order = torch.arange(columns * lines, device=device).view(columns, lines).t()
    return order.contiguous().to(torch.float32 if device.type == "mps" else torch.float64) * TIE_STEP  # mps has no fp64


class Uniforms:
    """The random numbers of one row: those of stream number `stream` of `seed`, a block at a time."""

    def __init__(self, seed: int, stream: int = 0) -> None:
        if stream < 0:
            raise ValueError(f"stream is {stream}; it must be 0 or more")
        # The generator keeps only 32 bits of what it is seeded with, so streams take seeds from it instead of counting up.
        seeder = torch.Generator().manual_seed(seed ^ (seed >> 32))
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**32, (stream + 1,), generator=seeder)[-1]))

    def block(self) -> Tensor:
        """The next `BLOCK` numbers, fp32 in [0, 1)."""
        return torch.rand(BLOCK, generator=self._generator)
