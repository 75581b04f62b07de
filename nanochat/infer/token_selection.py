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
from nanochat.infer.score_rules import Constraint, ScoreRules, has_rules
from nanochat.infer.token_scores import TokenScore, score_tokens
from nanochat.infer.tools import Tools, ToolState
from nanochat.model.cross_entropy import softcap


class SequenceState:
    """Row `row` of `request` while it is decoded, with random stream `stream` of its seed and `memory` behind it, if any."""

    def __init__(
        self,
        request: ReplyRequest,
        row: int,
        stream: int,
        tools: Tools | None = None,
        memory: ExternalMemory | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.request, self.row, self.memory = request, row, memory
        self.tool = None if tools is None or not request.tools else ToolState(tools)
        self.prompt_scores: list[TokenScore] | None = None  # to be sent with the first token
        self.constraint = constraint
        self.rules: ScoreRules | None = None  # made before the first token
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
        self._scored: list[int] = []  # rows whose tokens come with scores
        self._ruled: list[int] = []  # rows with rules

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
            self._ruled = [i for i, row in enumerate(self.rows) if has_rules(row.request)]
            self._scored = [i for i, row in enumerate(self.rows) if row.request.logprobs is not None]
            self._used = torch.tensor([[row.count % BLOCK] for row in self.rows], device=self._device)
        uniforms = self._uniforms.gather(1, self._used)[:, 0]
        self._used += 1
        scores = self._head(hidden)
        self.tokens = self._choose_ruled(scores, uniforms) if self._ruled else choose(scores, uniforms, self._settings, softcap)
        events = [row.take(token) for row, token in zip(self.rows, self.tokens.tolist(), strict=True)]
        if any(event.forced for event in events):
            self.tokens = torch.tensor([row.token for row in self.rows], device=self._device)
        if self._scored:
            self._add_scores(events, scores)
        for i in self._ruled:
            self.rows[i].rules.take(self.rows[i].token)
        for i, row in enumerate(self.rows):
            if row.count % BLOCK == 0:
                self._uniforms[i] = row.block.to(self._device)
                self._used[i] = 0
        return events

    def _choose_ruled(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """The next tokens, if some rows have rules. Those without choose as they do without these."""
        plain = [i for i in range(len(self.rows)) if i not in self._ruled]
        samplings = [row.request.sampling for row in self.rows]
        tokens = torch.empty(len(self.rows), dtype=torch.int64, device=self._device)
        if plain:
            tokens[plain] = choose(scores[plain], uniforms[plain], Settings([samplings[i] for i in plain], self._device), softcap)
        changed = []
        for i in self._ruled:
            row = self.rows[i]
            row.rules = row.rules or ScoreRules(row.request, scores.shape[1], self._device, row.constraint)
            changed.append(row.rules.apply(softcap(scores[i])))
        tokens[self._ruled] = choose(
            torch.stack(changed), uniforms[self._ruled], Settings([samplings[i] for i in self._ruled], self._device)
        )
        return tokens

    def _add_scores(self, events: list[TokenEvent], scores: Tensor) -> None:
        """Adds to the events of `_scored` rows what was asked for."""
        most = max(self.rows[i].request.logprobs for i in self._scored)
        found = score_tokens(softcap(scores[self._scored]), self.tokens[self._scored], most)
        for i, score in zip(self._scored, found, strict=True):
            row = self.rows[i]
            score = score._replace(top=score.top[: row.request.logprobs])
            events[i] = events[i]._replace(score=score, prompt_scores=row.prompt_scores)
            row.prompt_scores = None
