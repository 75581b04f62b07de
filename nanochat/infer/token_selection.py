"""What is being generated in each row of a context: the one place where tokens are chosen, forced by a tool and rows ended.

Shapes: `B` rows, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nanochat.infer.packed_linear import PackedLinear
from nanochat.infer.sampling import BLOCK, Sampling, Settings, Uniforms, choose
from nanochat.infer.tools import Tools, ToolState
from nanochat.model.cross_entropy import softcap

Finish = Literal["stop", "length"]


class Choice(NamedTuple):
    """A row's new token, whether a tool put it there, and, where it is the row's last one, why."""

    token: int
    forced: bool
    finish: Finish | None


@dataclass(eq=False)
class SequenceState:
    """A row to be continued: at most `sampling.max_tokens` tokens, or up to one of `stop`, which is its last then.

    `stream` numbers its random numbers among those of the seed: two samples of a prompt take two streams.
    """

    sampling: Sampling
    stop: Collection[int] = ()
    stream: int = 0
    tool: ToolState | None = None
    uniforms: Uniforms = field(init=False)
    block: Tensor = field(init=False)  # of random numbers, the current one
    count: int = field(default=0, init=False)  # tokens so far

    def __post_init__(self) -> None:
        self.stop = frozenset(self.stop)
        self.uniforms = Uniforms(self.sampling.seed, self.stream)
        self.block = self.uniforms.block()

    def take(self, token: int) -> Choice:
        """Takes note of its next token, chosen by the model, or replaces it by the one that its tool forces.

        Code of the tool that is then pending has to be run before the next token.
        """
        forced = self.tool is not None and self.tool.forced is not None
        if forced:
            token = self.tool.forced
        if self.tool is not None:
            self.tool.feed(token)
        self.count += 1
        if self.count % BLOCK == 0:
            self.block = self.uniforms.block()
        finish: Finish | None = "stop" if token in self.stop else "length" if self.count >= self.sampling.max_tokens else None
        return Choice(token, forced, finish)


class RowSampler:
    """The rows of a context, in its order: from their hidden states to their next tokens, through a model's `head`.

    `rows` is not to be changed directly.
    """

    def __init__(self, head: PackedLinear, device: torch.device) -> None:
        self.rows: list[SequenceState] = []
        self._head, self._device = head, device
        self._settings: Settings | None = None  # None: the rows are others than at the last step
        self._uniforms = torch.empty(0, BLOCK, device=self._device)

    def add(self, row: SequenceState) -> None:
        """A new last row."""
        self.rows.append(row)
        self._uniforms = torch.cat([self._uniforms, row.block.to(self._device)[None]])
        self._settings = None

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows only, in this order."""
        self.rows = [self.rows[row] for row in rows]
        self._uniforms = self._uniforms[list(rows)]
        self._settings = None

    @torch.no_grad()
    def step(self, hidden: Tensor) -> tuple[list[Choice], Tensor]:
        """The next token of each row, behind the hidden state [B,D] of its newest: what it is, and the tokens int64 [B]."""
        if self._settings is None:
            self._settings = Settings([row.sampling for row in self.rows], self._device)
            self._used = torch.tensor([[row.count % BLOCK] for row in self.rows], device=self._device)
        uniforms = self._uniforms.gather(1, self._used)[:, 0]
        self._used += 1
        tokens = choose(self._head(hidden), uniforms, self._settings, softcap)
        choices = [row.take(token) for row, token in zip(self.rows, tokens.tolist(), strict=True)]
        if any(choice.forced for choice in choices):
            tokens = torch.tensor([choice.token for choice in choices], device=self._device)
        for i, row in enumerate(self.rows):
            if row.count % BLOCK == 0:
                self._uniforms[i] = row.block.to(self._device)
                self._used[i] = 0
        return choices, tokens


def tool_state(tools: Tools | None) -> ToolState | None:
    """A row's state of the tools, where there are any."""
    return None if tools is None else ToolState(tools)
