"""Session: one history of any length, of which the model reads a Working Context of bounded size.

`append` adds tokens to the tree, which computes the gist of each complete block once; `refocus` lets LensNet and the Focus Allocator
choose what is in detail. The cost of a token depends on the budget, never on the history. What all kinds of gists have in common is
here: the tiling, its budget and edits, and the saved focus. Shapes: `n` tokens, `W` entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.layout.layout import check
from mc.layout.tiling import Tiling, extended
from mc.memory_model import MemoryModel
from mc.session.allocator import FocusAllocator, coarsest_width, count_blocks, swap_rate
from mc.session.budget import FocusFigures, longest_history, session_budget
from mc.session.hooks import SessionHooks
from mc.session.layered_context import LayeredContext
from mc.session.layered_tree import Packing
from mc.session.tree import MegaContextTree, TreeSpec
from mc.session.tree_builder import PIECE
from mc.session.working_context import WorkingContext
from nanochat.common import UserError, read_json, write_json

Score = Callable[["Session"], np.ndarray]  # fp32 [W] in −1 … 1, of the session's entries


def session_spec(memory: MemoryModel, config: SessionConfig) -> TreeSpec:
    """Spec of the trees that sessions of this memory have."""
    model, geometry = memory.model.config, memory.config.geometry
    if memory.layered:
        return TreeSpec(Packing(model).width, geometry, config.mc_session_lod, torch.bfloat16, 0, model.vocab_size, "layered")
    values = len(memory.model.value_layers) * model.key_heads * model.head_dim
    return TreeSpec(model.width, geometry, config.mc_session_lod, memory.model.dtype, values, model.vocab_size)


class Session(ABC):
    """The history in `tree` and its Working Context, read by the model of `memory`. Not thread-safe.

    A tree that is not empty is laid out at once: as in `focus`, which another session's `focused` gave; as `save` has left it in
    `file`; or else with the most recent tokens in most detail. `score` takes LensNet's place, if given. Raises `ValueError` if
    `config` does not fit the memory.
    """

    allocator: FocusAllocator
    context: WorkingContext | LayeredContext

    def __init__(
        self,
        memory: MemoryModel,
        tree: MegaContextTree,
        config: SessionConfig,
        file: Path | None = None,
        hooks: SessionHooks | None = None,
        score: Score | None = None,
    ) -> None:
        """The subclass makes `allocator` and `context`, and then calls `_open`."""
        if tree.spec != session_spec(memory, config):
            raise ValueError(f"invalid tree: it holds {tree.spec}; expected {session_spec(memory, config)}")
        self.memory, self.tree, self.config, self.file = memory, tree, config, file
        self.hooks, self._score = hooks or SessionHooks(), score
        self.budget = session_budget(memory, config)
        self.figures = FocusFigures()
        self._noted: list[Tensor] = []  # decoded tokens that are not in the tree yet, int64 [1] each
        self._since = 0  # tokens since the last refocus

    def _open(self, focus: dict[str, Any] | None) -> None:
        """Lays out the tree."""
        if focus is None and self.file is not None and self.file.exists():
            focus = read_json(self.file)
        if focus is None or not self._restore(focus):
            self.context.change(*self._covering(self.context.tiling, self.tree.length))

    @property
    def length(self) -> int:
        """Tokens of the history."""
        return self.tree.length + len(self._noted)

    @property
    def capacity(self) -> int:
        """The longest history, in tokens, that is guaranteed to fit the budget at its coarsest."""
        return longest_history(self.budget, self.tree.spec.geometry, self.tree.spec.max_lod)

    @property
    def newest(self) -> int:
        """The newest token."""
        return int(self._noted[-1]) if self._noted else int(self.tree.tokens(self.tree.length - 1, self.tree.length))

    @torch.no_grad()
    def append(self, tokens: Tensor, refocus: bool = True) -> None:
        """Adds tokens, int64 [n], that no cache has read. Refocuses if it is time to, unless the caller will (`refocus` False).

        Raises `ValueError` for an invalid token and `UserError` if there is no room; nothing is added then.
        """
        self._append(tokens)
        if refocus and (self._since >= self.budget.interval or len(self.context) > self.budget.target):
            self.refocus()

    @torch.no_grad()
    def refocus(self, iterations: int | None = None) -> int:
        """Runs one refocus. Returns the index of the first entry that changed.

        `iterations` of scoring and editing are by default those of the configuration, and more where an allocator that swaps has
        expanded a node above level 1.
        """
        self.hooks.refocusing(self)
        first = self.flush()
        if len(self.context) <= self.budget.target and not self.context.tiling.lod.any():
            iterations = 0  # everything is raw: there is nothing to choose
        geometry, edited, blocks = self.tree.spec.geometry, [], count_blocks(self.context.tiling, self.tree.spec.geometry)
        left = self.config.allocator.allocator_iterations if iterations is None else iterations
        deeper = self.tree.spec.max_lod - 1  # further iterations, in which what was found below a high node is reached
        while left:
            left -= 1
            scores = self.scores()
            tiling, source = self._fitted(self.context.tiling, self.tree.length, self.budget.target, scores)
            kept = np.where(source < 0, scores.min(initial=0), scores[source])  # entries that had to become gists scored lowest
            edits = self.allocator.plan(tiling, self.tree.length, self.budget.target, kept)
            tiling, again = self.allocator.apply(tiling, edits)
            first = min(first, self.context.change(tiling, composed(source, again)))
            edited += edits
            if not edits:
                break
            if not left and deeper and self.allocator.swaps and any(edit.expand and edit.level > 1 for edit in edits):
                left, deeper = 1, deeper - 1
        self.allocator.refocused()
        self._since = 0
        self.figures = FocusFigures(
            swap_rate(edited, blocks, geometry),
            len(self.context) / self.budget.most,
            self.figures.refocuses + 1,
            self.figures.edits + len(edited),
        )
        self.hooks.refocused(self, edited)
        return first

    def scores(self) -> np.ndarray:
        """LensNet's score of each entry, fp32 [W]."""
        if not len(self.context):
            return np.zeros(0, dtype=np.float32)
        return self._lens_scores() if self._score is None else self._score(self)

    def check_room(self, tokens: int) -> None:
        """Raises `UserError` if the history has no room for `tokens` more."""
        left = max(0, self.capacity - self.length)
        if tokens > left:
            more = f"--mc-session-lod above {self.tree.spec.max_lod} or --allocator-soft-max-length above {self.budget.most}"
            raise UserError(
                f"the session has {self.length:,} tokens and room for {left:,}, not for {tokens:,}; start a new one with {more}"
            )

    def flush(self) -> int:
        """Moves decoded tokens into tree and layout. Returns the first entry that changed."""
        if not self._noted:
            return len(self.context)
        first = self._take_noted()
        self._noted = []  # last: if the disk fails, they are still to be written
        return first

    def save(self) -> None:
        """Makes the tree durable and, if the session has a `file`, the focus."""
        self.flush()
        self.tree.save()
        if self.file is not None:
            write_json(self.file, self.focused())

    def focused(self) -> dict[str, Any]:
        """Serialisable state of the focus, for a session on the same history or a longer one."""
        tiling = self.context.tiling
        layout = {"lod": tiling.lod.tolist(), "start": tiling.start.tolist()}
        return {**layout, "since": self._since, "allocator": self.allocator.state()}

    def close(self) -> None:
        """Saves, and closes the tree."""
        try:
            self.save()
        finally:
            self.tree.close()

    @abstractmethod
    def _lens_scores(self) -> np.ndarray: ...

    @abstractmethod
    def _take(self, tokens: Tensor) -> int:
        """Reads tokens [n] that are valid, and adds them to tree and layout. Returns the first entry that changed."""

    @abstractmethod
    def _take_noted(self) -> int:
        """Adds the tokens that a cache has read to tree and layout. Returns the first entry that changed."""

    def _append(self, tokens: Tensor) -> int:
        """Adds tokens. Returns the first entry that changed."""
        tokens = tokens.to("cpu", torch.int64)
        vocabulary = self.tree.spec.vocab_size
        if tokens.ndim != 1 or (len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary)):
            raise ValueError(f"invalid tokens; expected int64 [n] from 0 to {vocabulary - 1}")
        self.check_room(len(tokens))
        first = self.flush()
        first = min(first, self._take(tokens))
        self._since += len(tokens)
        return first

    def _covering(self, tiling: Tiling, end: int) -> tuple[Tiling, np.ndarray]:
        """Extends `tiling` to token `end`: raw, and the oldest as gists if that exceeds the budget. Also returns its sources."""
        source = np.arange(len(tiling.lod))
        covered = self._covered(tiling)
        while covered < end:
            upto = min(covered + PIECE, end)
            tiling = extended(tiling, covered, upto)
            source = np.append(source, np.full(upto - covered, -1))
            if len(tiling.lod) > self.budget.most:
                tiling, again = self._fitted(tiling, upto, self.budget.target)
                source = composed(source, again)
            covered = upto
        return tiling, source

    def _fitted(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray | None = None) -> tuple[Tiling, np.ndarray]:
        """Makes `tiling` fit `budget` entries; returns as `FocusAllocator.fit` does.

        A tiling that has to be cut is cut further, to leave room for one expansion, so that the focus can still move, unless the
        allocator swaps anyway.
        """
        geometry = self.tree.spec.geometry
        if len(tiling.lod) > budget and not self.allocator.swaps:
            room = geometry.block_size - geometry.slots  # for a block of tokens
            least = coarsest_width(length, geometry, self.tree.spec.max_lod, self.budget.recent)
            budget = max(least, budget - room)
        return self.allocator.fit(tiling, length, budget, scores)

    def _covered(self, tiling: Tiling) -> int:
        """Number of tokens that a layout covers."""
        if not len(tiling.lod):
            return 0
        return int(tiling.start[-1]) + self.tree.spec.geometry.stride(int(tiling.lod[-1]))

    def _restore(self, state: Any) -> bool:
        """Restores the focus from `focused`; returns False if `state` is invalid or does not fit the tree."""
        try:
            tiling = Tiling(np.array(state["lod"], dtype=np.int64), np.array(state["start"], dtype=np.int64))
            end, spec = self._covered(tiling), self.tree.spec
            if not (end <= self.tree.length and 0 <= state["since"] <= end):
                return False
            recent = min(self.budget.recent, end)
            check(tiling.layout(), spec.geometry, end=end, max_entries=self.budget.most, recent=recent, max_lod=spec.max_lod)
            self.allocator.load_state(state["allocator"])
        except (ValueError, TypeError, KeyError, IndexError, OverflowError):
            return False
        self._since = state["since"]
        tiling, _ = self._covering(tiling, self.tree.length)
        self.context.change(tiling, np.full(len(tiling.lod), -1))
        return True


def composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Composes the source indices of two changes of a layout, `first` before `second`; −1 = new."""
    return np.where(second < 0, -1, first[second])
