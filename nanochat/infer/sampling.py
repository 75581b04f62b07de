"""Sampling: temperature, top-k, top-p, and random numbers that do not depend on the other rows of the batch.

Shapes: `B` rows, `V` vocabulary, `K` candidates. Each row has settings of its own and draws one uniform number per token
from a generator of its own, so that the same seed gives the same text whatever else is in the batch, on any device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.flags import check, flag

BLOCK = 64  # random numbers drawn per row at a time
TIE_STEP = 2.0**-40  # subtracted per place in the order of equal logits: less than fp32 resolves
FOLDS = 16  # lines that the vocabulary is folded into for top-k
LEAST_TEMPERATURE = 1e-4  # below it fp32 no longer distinguishes the likeliest tokens: use 0
SMALL = 16384  # up to this many logits topk is faster unfolded


@dataclass
class Sampling:
    """Sampling settings of a reply, and its maximum length."""

    temperature: float = flag(0.8, "sampling temperature; 0 = greedy", alias=("-t",))
    top_k: int = flag(50, "top-k: sample from the k most likely tokens; 0 = off", unit="tokens", alias=("-k",))
    top_p: float = flag(1.0, "top-p (nucleus) sampling; 1 = off")
    max_tokens: int = flag(256, "maximum length of a reply", unit="tokens")
    seed: int = flag(42, "seed of sampling")
    min_p: float = flag(0.0, "min-p: leave out tokens less likely than this times the likeliest; 0 = off")
    repetition_penalty: float = flag(1.0, "divide the logits of tokens in prompt and reply by this; 1 = off")
    frequency_penalty: float = flag(0.0, "subtract this from a token's logit for each time it is in the reply; 0 = off")
    presence_penalty: float = flag(0.0, "subtract this from the logits of tokens that are in the reply; 0 = off")

    def __post_init__(self) -> None:
        least = LEAST_TEMPERATURE
        check(self, lambda value: value == 0 or least <= value < math.inf, f"must be 0, or at least {least}", "temperature")
        check(self, lambda value: value >= 0, "must be at least 1, or 0 for all tokens", "top_k")
        check(self, lambda value: 0 < value <= 1, "must be above 0 and at most 1", "top_p")
        check(self, lambda value: 0 <= value <= 1, "must be from 0 to 1", "min_p")
        check(self, lambda value: 0 < value < math.inf, "must be above 0", "repetition_penalty")
        check(self, math.isfinite, "must be finite", "frequency_penalty", "presence_penalty")
        check(self, lambda value: value >= 1, "must be at least 1", "max_tokens")
        check(self, lambda value: 0 <= value < 2**63, "must be from 0 to 2^63 − 1", "seed")


class Settings:
    """Sampling settings of B rows as tensors on `device`, for `choose`."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self.greedy = all(s.temperature == 0 for s in samplings)
        # Temperature 0 is top-k with k = 1.
        limits = [(1, 1.0, 1.0) if s.temperature == 0 else (s.top_k, s.temperature, s.top_p) for s in samplings]
        ranked = [i for i, (k, _, p) in enumerate(limits) if k > 0 or p < 1]
        whole = sorted(set(range(len(limits))) - set(ranked))
        # Rows that sample from all tokens need no ranking. None: no rows, a slice: all rows.
        self.ranked, self.whole = (_rows(rows, len(limits), device) for rows in (ranked, whole))
        self.temperature = torch.tensor([[t] for _, t, _ in limits], dtype=torch.float32, device=device)  # (B, 1)
        self.candidates = max((limits[i][0] or 2**62 for i in ranked), default=0)  # K, not yet bounded by the vocabulary
        self.top_k = torch.tensor([[k or 2**62] for k, _, _ in limits], device=device)  # (B, 1)
        cuts = any(limits[i][2] < 1 for i in ranked)
        self.top_p = torch.tensor([[p] for _, _, p in limits], dtype=torch.float32, device=device) if cuts else None  # (B, 1)


def _rows(rows: list[int], count: int, device: torch.device) -> Tensor | slice | None:
    if len(rows) == count:
        return slice(None)
    return torch.tensor(rows, device=device) if rows else None


def choose(logits: Tensor, uniforms: Tensor, settings: Settings, cap: Callable[[Tensor], Tensor] = Tensor.float) -> Tensor:
    """Samples a token, int64 [B], for each row of `logits` [B,V] with the random number in `uniforms`, fp32 [B] in [0, 1).

    `cap` maps raw scores to fp32 logits; it must be monotonic, so it is applied to surviving candidates only. Top-p counts the
    probabilities that temperature and top-k leave. The token is the inverse of the cumulative distribution at the random number,
    with equal logits in a fixed order, so that it depends on the row's own logits, number and settings alone.
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
    # The greatest is subtracted first, so that a tiny temperature does not overflow.
    p = ((logits - logits.amax(-1, keepdim=True)) / settings.temperature[rows]).softmax(-1)
    return _draw(p.cumsum(-1), uniforms[rows])[:, 0]


def _among_likeliest(logits: Tensor, uniforms: Tensor, settings: Settings, rows: Tensor | slice, cap: Callable[[Tensor], Tensor]) -> Tensor:
    V = logits.shape[-1]
    K = min(settings.candidates, V)
    greatest, ids = _greatest(logits[rows], K)  # (b, K)
    greatest = cap(greatest)
    # No softmax: its sum, and so a row's choice at the margin, would depend on the number of candidates of other rows.
    p = ((greatest - greatest[:, :1]) / settings.temperature[rows]).exp()
    p = p.masked_fill(torch.arange(K, device=p.device) >= settings.top_k[rows], 0.0)
    cumulative = p.cumsum(-1)
    if settings.top_p is not None:
        before = cumulative - p
        p = p.masked_fill(before >= settings.top_p[rows] * cumulative[:, -1:], 0.0)
        cumulative = p.cumsum(-1)
    return ids.gather(-1, _draw(cumulative, uniforms[rows]))[:, 0]


def _draw(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """The entry [b,1] that each row's number falls on. Numbers are < 1, so the first entry above number · total exists, and its
    probability is above zero."""
    return torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)


def _greatest(logits: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The K greatest logits of each row in descending order, and their places.

    Equal logits, which are frequent in bf16, have a fixed order whatever K is: in the folded vocabulary the first column before the
    second, and within a column the first line before the second.
    """
    B, V = logits.shape
    F = FOLDS if V % FOLDS == 0 else 1
    columns = V // F
    folded, ties = logits.view(B, F, columns), _ties(F, columns, logits.device)
    if V * B <= SMALL or columns < 4 * K:
        return (folded - ties).flatten(1).topk(K, dim=-1)
    # The K greatest are in the K columns with the greatest maxima, which leaves few to sort.
    chosen = (folded.amax(1) - ties[0]).topk(K, dim=-1, sorted=False).indices  # (B, K)
    few = folded.gather(2, chosen[:, None].expand(-1, F, -1)) - (ties[0][chosen][:, None] + ties[:, :1])  # (B, F, K)
    greatest, place = few.flatten(1).topk(K, dim=-1)
    return greatest, chosen.gather(1, place % K) + place // K * columns


@functools.lru_cache(maxsize=8)
def _ties(lines: int, columns: int, device: torch.device) -> Tensor:
    """Offsets [lines, columns] that make equal logits different when subtracted."""
    order = torch.arange(columns * lines, device=device).view(columns, lines).t()
    return order.contiguous().to(torch.float32 if device.type == "mps" else torch.float64) * TIE_STEP  # mps has no fp64


class Uniforms:
    """Random numbers of one row: stream `stream` of `seed`, a block at a time."""

    def __init__(self, seed: int, stream: int = 0) -> None:
        if stream < 0:
            raise ValueError(f"stream is {stream}; it must be 0 or more")
        # The generator keeps only 32 bits of its seed, so the seeds of streams are drawn instead of counted up.
        seeder = torch.Generator().manual_seed(seed ^ (seed >> 32))
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**32, (stream + 1,), generator=seeder)[-1]))

    def block(self) -> Tensor:
        """The next `BLOCK` numbers, fp32 in [0, 1)."""
        return torch.rand(BLOCK, generator=self._generator)
