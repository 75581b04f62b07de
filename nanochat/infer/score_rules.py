"""Rules that change the logits of one row before a token is chosen: biases, penalties, a constraint, min-p.

Only rows that have some of them pay for them. Shapes: `V` vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.infer.request import ReplyRequest


class Constraint(Protocol):
    """Constraint on what the tokens of a reply spell, such as a JSON schema."""

    def allowed(self, logits: Tensor, left: int) -> Tensor:
        """True for the tokens that may come next, bool on the CPU for the ids of the tokenizer, if `left` tokens may still come.

        `logits` [V] tell which of them are likely.
        """

    def take(self, token: int) -> None:
        """Continues after `token`."""


def has_rules(request: ReplyRequest) -> bool:
    """True if its rows need `ScoreRules`."""
    sampling = request.sampling
    penalised = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1, 0, 0)
    return penalised or sampling.min_p > 0 or bool(request.bias) or request.grammar is not None


class ScoreRules:
    """Rules of a row of `request`, in a vocabulary of V tokens."""

    def __init__(self, request: ReplyRequest, vocabulary: int, device: torch.device, constraint: Constraint | None) -> None:
        self._sampling, self._constraint = request.sampling, constraint
        self._left = request.sampling.max_tokens
        self._bias = torch.zeros(vocabulary, device=device)
        for token, bias in request.bias.items():
            self._bias[int(token)] = bias
        self._counts = torch.zeros(vocabulary, device=device)  # of the tokens of the reply
        self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)  # in prompt and reply
        self._seen[list(request.prompt)] = True

    def apply(self, logits: Tensor) -> Tensor:
        """The fp32 `logits` [V], changed."""
        sampling, r = self._sampling, self._sampling.repetition_penalty
        if r != 1:
            logits = torch.where(self._seen, torch.where(logits > 0, logits / r, logits * r), logits)
        logits = logits + self._bias - sampling.frequency_penalty * self._counts - sampling.presence_penalty * (self._counts > 0)
        if self._constraint is not None:
            allowed = self._constraint.allowed(logits, self._left).to(logits.device)
            logits = logits.masked_fill(~F.pad(allowed, (0, len(logits) - len(allowed))), -math.inf)
        if sampling.min_p > 0 and sampling.temperature > 0:
            least = logits.amax() + sampling.temperature * math.log(sampling.min_p)
            logits = logits.masked_fill(logits < least, -math.inf)
        return logits

    def take(self, token: int) -> None:
        """Continues after `token`, the next one of the reply."""
        self._left -= 1
        self._counts[token] += 1
        self._seen[token] = True
        if self._constraint is not None:
            self._constraint.take(token)
