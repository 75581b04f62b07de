"""From logits to tokens: temperature, top-k, top-p, and random numbers that do not depend on who shares the batch.

Shapes: `B` rows, `V` vocabulary. A row draws one uniform number per token from a generator of its own, so that the same
seed gives the same text whatever else is generated beside it, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.flags import flag

BLOCK = 64  # random numbers drawn per row at a time


@dataclass
class Sampling:
    """How tokens are chosen, and how many."""

    temperature: float = flag(0.8, "flattens (> 1) or sharpens (< 1) the distribution; 0 = always the likeliest token", alias=("-t",))
    top_k: int = flag(50, "choose among so many likeliest tokens; 0 = all", unit="tokens", alias=("-k",))
    top_p: float = flag(1.0, "choose among the likeliest tokens that together have this probability; 1 = all")
    max_tokens: int = flag(256, "length of a reply at most", unit="tokens")
    seed: int = flag(42, "seed of the choices")

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to 2^63 − 1")


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """A token int64 [B] for each row of `logits`, fp32 [B,V], by the random number in `uniforms`, fp32 [B] in [0, 1).

    Top-p counts the probabilities that temperature and top-k leave. The choice is the inverse of the cumulative
    distribution at the random number: equal inputs, equal tokens.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    V = logits.shape[-1]
    ids = None
    if 0 < sampling.top_k < V:
        logits, ids = logits.topk(sampling.top_k, dim=-1)  # sorted, the greatest first
    elif sampling.top_p < 1:
        logits, ids = logits.sort(dim=-1, descending=True)
    # The greatest is subtracted first: a tiny temperature must not overflow.
    p = ((logits - logits.amax(-1, keepdim=True)) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        before = p.cumsum(-1) - p
        p = p.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = p.cumsum(-1)
    # uniforms < 1, so the target is below the total, and the first entry above it has a probability above zero.
    target = uniforms[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)  # (B, 1)
    return (place if ids is None else ids.gather(-1, place))[:, 0]


class Uniforms:
    """Random numbers for `rows`, each from its own stream of `seed`; `streams[b]` numbers the stream of row b."""

    def __init__(self, seed: int, streams: Sequence[int], device: torch.device) -> None:
        # The generator keeps only 32 bits of what it is seeded with, so streams take seeds from it instead of counting up.
        seeder = torch.Generator().manual_seed(seed ^ (seed >> 32))
        seeds = torch.randint(2**32, (max(streams) + 1,), generator=seeder).tolist()
        self._generators = {stream: torch.Generator().manual_seed(seeds[stream]) for stream in set(streams)}
        self._streams, self._device = list(streams), device
        self._block, self._used = torch.empty(len(streams), 0), 0

    def next(self) -> Tensor:
        """The next number of each row, fp32 [B] in [0, 1)."""
        if self._used == self._block.shape[1]:
            drawn = {stream: torch.rand(BLOCK, generator=generator) for stream, generator in self._generators.items()}
            self._block, self._used = torch.stack([drawn[s] for s in self._streams]).to(self._device), 0
        self._used += 1
        return self._block[:, self._used - 1]

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with `rows` only."""
        self._streams = [self._streams[row] for row in rows]
        self._generators = {stream: self._generators[stream] for stream in set(self._streams)}
        self._block = self._block[list(rows)]
