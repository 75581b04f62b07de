"""What a model may read of one history under one budget of entries: conditions to compare, each behind a row of a cache.

- `full`: every token, in a plain cache, as far as `full_limit` allows;
- `window`: the last tokens alone, as many as a Working Context has entries, at their true positions;
- `gists`: a session whose focus never moves: the newest tokens raw, gists of all before, nothing expanded;
- `focus`: a session as at inference;
- `random`: the same with random scores in place of LensNet's;
- `oracle`: the same with scores that know which tokens are needed: what choosing could do at best.

All but `full` have the budget of the session's Working Context, and go back to its target at the same moments. Gists are made
once, of the history without its last token; that one, the decision point, is read under each condition by itself and makes the
focus look as often as it may at a prompt's end. Shapes: `n` tokens, `B` rows, `D` width, `W` entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.layout.tiling import Edit, Tiling
from mc.session.allocator import FocusAllocator
from mc.session.budget import Budget
from mc.session.hooks import SessionHooks
from mc.session.session import MCSession, session_budget, session_spec
from mc.session.tree import MegaContextTree, RamTree
from mc.train.controller import MCController
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.memory_kv_cache import ExternalMemory, MemoryKVCache
from nanochat.model.gpt import GPT, Embedded, Rotary, rotary_at

Condition = Literal["full", "window", "gists", "focus", "random", "oracle"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
Score = Callable[[MCSession], np.ndarray]  # fp32 [W] of the session's entries
Spans = Sequence[tuple[int, int]]  # tokens [begin, end)


class Window:
    """A `ExternalMemory` of the last tokens: up to `budget.most` of them, and `budget.target` after every `budget.interval` new ones."""

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
        """Forgets what is beyond the target; whether there was any."""
        self._since = 0
        beyond = len(self._tokens) - self._budget.target
        self._tokens = self._tokens[max(0, beyond) :]
        return beyond > 0


class Steered(MCSession):
    """A session whose scores are not LensNet's but those of `score`."""

    def __init__(self, controller: MCController, tree: MegaContextTree, config: SessionConfig, score: Score) -> None:
        super().__init__(controller, tree, config)
        self._score = score

    def scores(self) -> np.ndarray:
        """See `MCSession`."""
        return self._score(self)


class NeverExpands(FocusAllocator):
    """Makes a Working Context fit, the oldest coarsest, and does no more."""

    def plan(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray) -> list[Edit]:
        """No edit."""
        return []


def unfocused(controller: MCController, tree: MegaContextTree, config: SessionConfig) -> MCSession:
    """The session of `gists`."""
    session = Steered(controller, tree, config, lambda session: np.zeros(len(session.context), dtype=np.float32))
    spec = tree.spec
    session.allocator = NeverExpands(config.allocator, spec.geometry, spec.max_lod, session.budget.recent)
    return session


def random_scores(seed: int) -> Score:
    """Uniform in −1 … 1, one draw for all tokens of a block: what is raw stays or goes by blocks."""
    generator = np.random.default_rng(seed)

    def score(session: MCSession) -> np.ndarray:
        _, block = np.unique(session.context.tiling.start // session.tree.spec.geometry.block_size, return_inverse=True)
        return generator.uniform(-1, 1, len(block)).astype(np.float32)[block]

    return score


def needed_scores(needed: Spans) -> Score:
    """1 for the entries that hold a block with one of the tokens `needed`, −1 for all others."""

    def score(session: MCSession) -> np.ndarray:
        geometry, (lod, start) = session.tree.spec.geometry, session.context.tiling
        K = geometry.block_size
        end = start + np.array([geometry.stride(int(level)) for level in lod], dtype=np.int64)
        wanted = np.zeros(len(lod), dtype=bool)
        for first, last in needed:
            wanted |= (start < -(-last // K) * K) & (end > first // K * K)
        return np.where(wanted, 1, -1).astype(np.float32)

    return score


class Opened(NamedTuple):
    """A history under one condition: a cache of one row that has read it, and the hidden state [1,D] of its last token."""

    cache: MemoryKVCache
    hidden: Tensor


class Reader:
    """Reads one history from its beginning, and opens it under conditions wherever it has come to.

    `full_limit` is how many tokens the condition `full` may have; `hooks` sees the sessions of the condition `focus`. Raises
    `ValueError` where `config` does not fit the memory.
    """

    def __init__(
        self, controller: MCController, config: SessionConfig, full_limit: int, step: DecodeStep, hooks: SessionHooks | None = None
    ) -> None:
        self._controller, self._config, self._full_limit, self._step, self._hooks = controller, config, full_limit, step, hooks
        self.budget = session_budget(controller, config)
        self._tokens = torch.zeros(0, dtype=torch.int64)
        self._tree = RamTree(session_spec(controller, config), controller.model.wte.weight.device)
        self._session = unfocused(controller, self._tree, config)

    @property
    def length(self) -> int:
        """Tokens read."""
        return len(self._tokens)

    def read(self, tokens: Tensor) -> None:
        """Goes on with `tokens`, int64 [n]."""
        self._tokens = torch.cat([self._tokens, tokens])
        self._session.append(self._tokens[self._session.length : -1])

    @torch.no_grad()
    def open(self, condition: Condition, seed: int = 0, needed: Spans = ()) -> Opened | None:
        """What was read, under `condition`, gone on with by itself; None where it is too long to be read in full.

        `seed` is that of random scores, `needed` the tokens that the oracle asks for.
        """
        if condition == "full" and self.length > self._full_limit:
            return None
        raw = condition in ("full", "window")
        memory = None if condition == "full" else self._memory(condition, seed, needed)
        cache = MemoryKVCache(self._controller.model, [memory], step=self._step)
        return Opened(cache, cache.append((self._tokens if raw else self._tokens[-1:])[None]))

    def _memory(self, condition: Condition, seed: int, needed: Spans) -> ExternalMemory:
        if condition == "window":
            return Window(self._controller.model, self.budget)
        tree = self._tree.copy()
        if condition == "gists":
            return unfocused(self._controller, tree, self._config)
        if condition == "focus":
            return MCSession(self._controller, tree, self._config, hooks=self._hooks)
        return Steered(self._controller, tree, self._config, random_scores(seed) if condition == "random" else needed_scores(needed))


def joined(model: GPT, rows: Sequence[Opened], step: DecodeStep) -> Opened:
    """One cache of all rows, to be gone on with together."""
    cache = MemoryKVCache(model, max_rows=len(rows), step=step)
    for row in rows:
        cache.admit(row.cache)
    return Opened(cache, torch.cat([row.hidden for row in rows]))


@torch.no_grad()
def forced(rows: Opened, tokens: Tensor) -> Iterator[Tensor]:
    """The hidden states [B,D] that predict each of `tokens`, int64 [B,n], which the rows are gone on with one by one."""
    hidden = rows.hidden
    for i in range(tokens.shape[1]):
        yield hidden
        if i + 1 < tokens.shape[1]:
            hidden = rows.cache.append(tokens[:, i : i + 1])
