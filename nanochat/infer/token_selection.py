"""Per-row decoding state: sampling, tokens forced by tools and stop conditions, in one place.

Shapes: `B` rows, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.infer.memory_kv_cache import ExternalMemory
from nanochat.infer.packed_linear import PackedLinear
from nanochat.infer.request import Finish, ReplyRequest, TokenEvent
from nanochat.infer.sampling import BLOCK, Settings, Uniforms, choose
from nanochat.infer.tools import Tools, ToolState
from nanochat.model.cross_entropy import softcap


class SequenceState:
    """Row `row` of `request` while it is decoded, with random stream `stream` of its seed and `memory` behind it, if any."""

    def __init__(
        self, request: ReplyRequest, row: int, stream: int, tools: Tools | None = None, memory: ExternalMemory | None = None
    ) -> None:
        self.request, self.row, self.memory = request, row, memory
        self.tool = None if tools is None else ToolState(tools)
        self.token = 0  # the newest
        self.count = 0  # tokens so far
        self._stop = frozenset(request.stop)
        self._uniforms = Uniforms(request.sampling.seed, stream)
        self.block = self._uniforms.block()  # of random numbers, the current one

    def take(self, token: int) -> TokenEvent:
        """Adds the next token, chosen by the model, or the one that the tool forces instead.

        Code of the tool that is then pending must be run before the next token.
        """
        forced = self.tool is not None and self.tool.forced is not None
        self.token = self.tool.forced if forced else token
        if self.tool is not None:
            self.tool.feed(self.token)
        self.count += 1
        if self.count % BLOCK == 0:
            self.block = self._uniforms.block()
        at_limit = self.count >= self.request.sampling.max_tokens
        finish: Finish | None = "stop" if self.token in self._stop else "length" if at_limit else None
        return TokenEvent(self.request.id, self.row, self.token, forced, finish)


class RowSampler:
    """Chooses the next tokens of the rows of a context, in its order, from their hidden states through a model's `head`.

    `rows` and their newest `tokens`, int64 [B], are changed by the methods only.
    """

    def __init__(self, head: PackedLinear, device: torch.device) -> None:
        self.rows: list[SequenceState] = []
        self.tokens = torch.empty(0, dtype=torch.int64, device=device)
        self._head, self._device = head, device
        self._settings: Settings | None = None  # None: the rows have changed since the last step
        self._uniforms = torch.empty(0, BLOCK, device=self._device)

    def add(self, row: SequenceState) -> None:
        """Adds a last row."""
        self.rows.append(row)
        self.tokens = torch.cat([self.tokens, self.tokens.new_tensor([row.token])])
        self._uniforms = torch.cat([self._uniforms, row.block.to(self._device)[None]])
        self._settings = None

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these rows only, in this order."""
        self.rows = [self.rows[row] for row in rows]
        self.tokens, self._uniforms = self.tokens[list(rows)], self._uniforms[list(rows)]
        self._settings = None

    @torch.no_grad()
    def step(self, hidden: Tensor) -> list[TokenEvent]:
        """The next token of each row, given the hidden state [B,D] of its newest one."""
        if self._settings is None:
            self._settings = Settings([row.request.sampling for row in self.rows], self._device)
            self._used = torch.tensor([[row.count % BLOCK] for row in self.rows], device=self._device)
        uniforms = self._uniforms.gather(1, self._used)[:, 0]
        self._used += 1
        self.tokens = choose(self._head(hidden), uniforms, self._settings, softcap)
        events = [row.take(token) for row, token in zip(self.rows, self.tokens.tolist(), strict=True)]
        if any(event.forced for event in events):
            self.tokens = torch.tensor([row.token for row in self.rows], device=self._device)
        for i, row in enumerate(self.rows):
            if row.count % BLOCK == 0:
                self._uniforms[i] = row.block.to(self._device)
                self._used[i] = 0
        return events
