"""Context baselines for session evaluation: one history read under the conditions of `mc.eval.conditions`, each in a cache of one row.

`lens` is a session as at inference; `random` and `oracle` have other scores in place of LensNet's; the focus of `gists` never
moves. All but `full` have the budget of the session's Working Context and return to its target at the same tokens. Gists are made
once, of the history without its last token. That one, the decision point, is read under each condition separately and triggers
as many refocus iterations as the end of a prompt. Shapes: `n` tokens, `B` rows, `D` width, `W` entries.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.eval.conditions import CONDITIONS, Condition
from mc.layout.tiling import Edit, Tiling
from mc.memory_model import MemoryModel
from mc.session.allocator import FocusAllocator
from mc.session.base_session import Score, Session, session_spec
from mc.session.budget import Budget, session_budget
from mc.session.hooks import SessionHooks
from mc.session.session import start_session
from mc.session.tree import MegaContextTree, RamTree
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.memory_kv_cache import ExternalMemory, MemoryKVCache, SlotMemory
from nanochat.model.gpt import GPT, Embedded, Rotary, rotary_at

SESSION_CONDITIONS = tuple(condition for condition in CONDITIONS if condition != "recency")
Spans = Sequence[tuple[int, int]]  # tokens [begin, end)


class Window:
    """`ExternalMemory` of the last tokens: up to `budget.most`, cut to `budget.target` after every `budget.interval` new ones."""

    def __init__(self, model: GPT, budget: Budget) -> None:
        self._model, self._budget = model, budget
        self._tokens = torch.zeros(0, dtype=torch.int64)
        self._since = 0
        self.position = 0

    @property
    def newest(self) -> int:
        """See `ExternalMemory`."""
        return int(self._tokens[-1])

    def extend(self, tokens: Tensor) -> int:
        """See `ExternalMemory`."""
        self._take(tokens)
        self._drop()
        return 0

    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """See `ExternalMemory`."""
        self._take(token)
        self._since += 1
        return 0 if self._since >= self._budget.interval and self._drop() else None

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """See `ExternalMemory`."""
        device, config = self._model.wte.weight.device, self._model.config
        embedded = self._model.embed(self._tokens.to(device)[None])
        places = torch.arange(self.position - len(self._tokens) + begin, self.position, device=device)
        return Embedded(*(part[:, begin:] for part in embedded)), rotary_at(places, config.head_dim, self._model.dtype)

    def _take(self, tokens: Tensor) -> None:
        self._tokens = torch.cat([self._tokens, tokens.cpu()])
        self.position += len(tokens)

    def _drop(self) -> bool:
        """Drops the tokens beyond the target; returns whether there were any."""
        self._since = 0
        beyond = len(self._tokens) - self._budget.target
        self._tokens = self._tokens[max(0, beyond) :]
        return beyond > 0


class NeverExpands(FocusAllocator):
    """Allocator that collapses the oldest until the Working Context fits, and never expands."""

    def plan(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray) -> list[Edit]:
        """No edit."""
        return []


def unfocused(memory: MemoryModel, tree: MegaContextTree, config: SessionConfig) -> Session:
    """The session of `gists`."""
    session = start_session(memory, tree, config, score=lambda session: np.zeros(len(session.context), dtype=np.float32))
    spec = tree.spec
    session.allocator = NeverExpands(config.allocator, spec.geometry, spec.max_lod, session.budget.recent)
    return session


def random_scores(seed: int) -> Score:
    """Scores uniform in −1 … 1, one draw for all tokens of a block, which stay raw or collapse together."""
    generator = np.random.default_rng(seed)

    def score(session: Session) -> np.ndarray:
        _, block = np.unique(session.context.tiling.start // session.tree.spec.geometry.block_size, return_inverse=True)
        return generator.uniform(-1, 1, len(block)).astype(np.float32)[block]

    return score


def needed_scores(needed: Spans) -> Score:
    """Score 1 for entries that hold a block with one of the tokens `needed`, −1 for all others."""

    def score(session: Session) -> np.ndarray:
        geometry, (lod, start) = session.tree.spec.geometry, session.context.tiling
        K = geometry.block_size
        end = start + np.array([geometry.stride(int(level)) for level in lod], dtype=np.int64)
        wanted = np.zeros(len(lod), dtype=bool)
        for first, last in needed:
            wanted |= (start < -(-last // K) * K) & (end > first // K * K)
        return np.where(wanted, 1, -1).astype(np.float32)

    return score


@dataclass(frozen=True)
class SessionEval:
    """Settings of an evaluation of `memory` through sessions: up to `examples` histories of each length, under `conditions`.

    About `batch` histories are decoded at once. `full_limit` is the most tokens that the condition `full` may have; `hooks` observes
    the sessions of the condition `lens`.
    """

    memory: MemoryModel
    config: SessionConfig
    conditions: Sequence[Condition]
    examples: int
    batch: int
    full_limit: int
    seed: int = 0
    hooks: SessionHooks | None = None

    @functools.cached_property
    def step(self) -> DecodeStep:
        """The decode step that all caches share."""
        return DecodeStep(self.memory.model)


class Opened(NamedTuple):
    """A history under one condition: the cache of one row that has read it, and the hidden state [1,D] of its last token."""

    cache: MemoryKVCache
    hidden: Tensor


class Reader:
    """Reads history `number` from its beginning, and opens what has been read under any condition.

    Raises `ValueError` if the configuration of sessions does not fit the memory.
    """

    def __init__(self, evaluation: SessionEval, number: int = 0) -> None:
        self._eval, self._seed = evaluation, evaluation.seed + number
        memory, config = evaluation.memory, evaluation.config
        self.budget = session_budget(memory, config)
        self._tokens = torch.zeros(0, dtype=torch.int64)
        self._tree = RamTree(session_spec(memory, config), memory.device)
        self._session = unfocused(memory, self._tree, config)

    @property
    def length(self) -> int:
        """Tokens read."""
        return len(self._tokens)

    def read(self, tokens: Tensor) -> None:
        """Reads further `tokens`, int64 [n]."""
        self._tokens = torch.cat([self._tokens, tokens])
        self._session.append(self._tokens[self._session.length : -1])

    def open_all(self, needed: Spans | None, longest: int = 0) -> Iterator[tuple[Condition, Opened]]:
        """Opens the history under each condition; not `full` if it, or `longest`, is too long, nor `oracle` if `needed` is None."""
        too_long = max(self.length, longest) > self._eval.full_limit
        for condition in self._eval.conditions:
            if not (condition == "full" and too_long or condition == "oracle" and needed is None):
                yield condition, self.open(condition, needed or ())

    @torch.no_grad()
    def open(self, condition: Condition, needed: Spans = ()) -> Opened:
        """A copy of what was read, under `condition`; `needed` are the tokens that the oracle scores high."""
        raw = condition in ("full", "window")
        history = None if condition == "full" else self._history(condition, needed)
        cache = MemoryKVCache(self._eval.memory.model, [history], step=self._eval.step)
        return Opened(cache, cache.append((self._tokens if raw else self._tokens[-1:])[None]))

    def _history(self, condition: Condition, needed: Spans) -> ExternalMemory | SlotMemory:
        memory, config = self._eval.memory, self._eval.config
        if condition == "window":
            return Window(memory.model, self.budget)
        tree = self._tree.copy()
        if condition == "gists":
            return unfocused(memory, tree, config)
        if condition == "lens":
            return start_session(memory, tree, config, hooks=self._eval.hooks)
        return start_session(memory, tree, config, score=random_scores(self._seed) if condition == "random" else needed_scores(needed))


def joined(evaluation: SessionEval, rows: Sequence[Opened]) -> Opened:
    """Joins rows into one cache, to continue them together."""
    cache = MemoryKVCache(evaluation.memory.model, max_rows=len(rows), step=evaluation.step)
    for row in rows:
        cache.admit(row.cache)
    return Opened(cache, torch.cat([row.hidden for row in rows]))


@torch.no_grad()
def forced(rows: Opened, tokens: Tensor) -> Iterator[Tensor]:
    """Teacher forcing: yields the hidden states [B,D] that predict each of `tokens`, int64 [B,n], one by one."""
    hidden = rows.hidden
    for i in range(tokens.shape[1]):
        yield hidden
        if i + 1 < tokens.shape[1]:
            hidden = rows.cache.append(tokens[:, i : i + 1])
