"""Session of a layered memory: its Working Context is keys and values, and a refocus swaps some of them.

It is also the `SlotMemory` behind a row of a `MemoryKVCache`. Shapes: `n` tokens, `L` layers, `G` key heads, `E` head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.memory_model import MemoryModel
from mc.nets.layered_lens import NEWEST
from mc.session.allocator import BestAllocator
from mc.session.base_session import Session
from mc.session.layered_context import Fresh, LayeredContext
from mc.session.layered_scores import LayeredScores
from mc.session.layered_tree import Packing, append_read
from mc.session.tree import MegaContextTree
from nanochat.infer.memory_kv_cache import SlotMemory, Slots

STEERED = 10.0  # logarithms of hits that a score of 1 from elsewhere is worth


class LayeredSession(Session, SlotMemory):
    """See `Session`."""

    context: LayeredContext

    def __init__(
        self, memory: MemoryModel, tree: MegaContextTree, config: SessionConfig, focus: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """`options` are further arguments of `Session`."""
        super().__init__(memory, tree, config, **options)
        spec = tree.spec
        self.packing = Packing(memory.model.config)
        self.allocator = BestAllocator(config.allocator, spec.geometry, spec.max_lod, self.budget.recent)
        self.context = LayeredContext(memory, tree, self.packing, self.most_slots)
        self._noted_queries: list[Sequence[Tensor]] = []  # of the decoded tokens that are not in the tree yet, L × [H,1,E] each
        self._scores = LayeredScores(memory, tree, self.context, self.budget.interval)
        self._open(focus)
        if self.context.queries is not None:
            self._scores.add(self.context.queries)
        waiting = tree.length % spec.geometry.block_size  # tokens of the incomplete block, which are the last entries
        slots = torch.from_numpy(self.context.slot[len(self.context) - waiting :]).to(memory.device)
        # Keys and values [L,G,·,E] of the incomplete block's tokens.
        self._waiting = [
            torch.stack([part.index_select(1, slots) for part in parts]).to(memory.model.dtype) for parts in self.context.slots[:2]
        ]
        self._hidden = torch.zeros(memory.model.config.width, dtype=memory.model.dtype, device=memory.device)  # of the newest token read

    # Interface to a cache: see `nanochat.infer.memory_kv_cache.SlotMemory`.

    @property
    def position(self) -> int:
        """See `SlotMemory`."""
        return self.length

    @property
    def width(self) -> int:
        """See `SlotMemory`."""
        return len(self.context) + len(self._noted)

    @property
    def most_slots(self) -> int:
        """See `SlotMemory`."""
        return self.budget.most + 1

    def move_to(self, slots: Slots | None) -> None:
        """See `SlotMemory`."""
        self.context.move_to(slots, self.width)

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> Tensor:
        """See `SlotMemory`. The newest token is read again after the refocus."""
        self._append(tokens)
        if self.refocus() < len(self.context):
            got = self.context.reread_newest()
            self._hidden = got.hidden
            if self._waiting[0].shape[2]:
                for waiting, new in zip(self._waiting, (got.keys, got.values), strict=True):
                    waiting[:, :, -1:] = new
        return self._hidden

    @torch.no_grad()
    def note(self, token: Tensor, queries: Sequence[Tensor]) -> bool:
        """See `SlotMemory`."""
        self.check_room(1)
        self._noted.append(token)
        self._noted_queries.append(queries)
        self._since += 1
        return self._since >= self.budget.interval and self.refocus() < len(self.context)

    def _lens_scores(self) -> np.ndarray:
        return self._scores()

    def scores(self) -> np.ndarray:
        """See `Session`. Scores from elsewhere are scaled to those of LensNet."""
        return super().scores() if self._score is None else super().scores() * np.float32(STEERED)

    def _take(self, tokens: Tensor) -> int:
        for piece in tokens.split(self.context.piece) if len(tokens) else ():
            self.context.advance(self.length + len(piece))
            got = self.context.read(self.length, piece)
            self._add(piece, got.keys, got.values)
            tiling, source = self._covering(self.context.tiling, self.tree.length)
            self.context.change(tiling, source, Fresh(self.tree.length - len(piece), got.keys, got.values))
            self._hidden = got.hidden
            self._scores.add(got.queries)
            self.hooks.appended(self)
        return 0 if len(tokens) else len(self.context)

    def _take_noted(self) -> int:
        W, n = len(self.context), len(self._noted)
        keys, values = self.context.written(W, W + n)
        self._add(torch.cat(self._noted).cpu(), keys, values)
        self.context.accept(n)
        self.context.advance(self.tree.length)
        self.context.change(*self._covering(self.context.tiling, self.tree.length))
        self._scores.add(torch.stack([torch.cat(layer, dim=1) for layer in zip(*self._noted_queries[-NEWEST:], strict=True)]))
        self._noted_queries = []
        self.hooks.appended(self)
        return W

    def _add(self, tokens: Tensor, keys: Tensor, values: Tensor) -> None:
        """Adds tokens [n] with their keys and values [L,G,n,E] to the tree, and complete blocks to the pool."""
        K = self.tree.spec.geometry.block_size
        first = self.tree.length // K
        keys, values = (torch.cat(parts, dim=2) for parts in zip(self._waiting, (keys, values), strict=True))
        by_token = (part.transpose(1, 2) for part in (keys, values))
        append_read(self.tree, self.memory.gistnet, self.packing, tokens, *by_token)
        blocks = range(first, self.tree.length // K)  # from here on nothing fails
        if len(blocks):
            self.context.keep(blocks, *(part[:, :, : len(blocks) * K] for part in (keys, values)))
        self._waiting = [part[:, :, len(blocks) * K :] for part in (keys, values)]
