"""Session whose gists are vectors that enter at the model's first layer: each refocus reads the entries after its first change anew.

It is also the `ExternalMemory` behind a row of a `MemoryKVCache`. `start_session` makes the session that a memory's gists need.
Shapes: `n` tokens, `W` entries, `D` width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.layout.layout import Layout
from mc.layout.tiling import raw
from mc.memory_model import MemoryModel
from mc.session.allocator import FocusAllocator
from mc.session.base_session import Session
from mc.session.child_key_cache import ChildKeyCache
from mc.session.layered_session import LayeredSession
from mc.session.tree import MegaContextTree
from mc.session.tree_builder import PIECE, append_tokens, embed
from mc.session.working_context import WorkingContext
from nanochat.infer.memory_kv_cache import WIDTH_STEP
from nanochat.model.attention import EagerAttention
from nanochat.model.gpt import Embedded, Rotary, pad_entries

STATES_PIECE = 4  # Working Contexts of tokens that are read at once for their hidden states


def start_session(memory: MemoryModel, tree: MegaContextTree, config: SessionConfig, **options: Any) -> Session:
    """The session of `memory` on `tree`; `options` are further arguments of `MCSession`."""
    return (LayeredSession if memory.layered else MCSession)(memory, tree, config, **options)


class MCSession(Session):
    """See `Session`."""

    context: WorkingContext

    def __init__(
        self, memory: MemoryModel, tree: MegaContextTree, config: SessionConfig, focus: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """`options` are further arguments of `Session`."""
        super().__init__(memory, tree, config, **options)
        spec, temperature = tree.spec, memory.config.lens_loss.mc_lens_temperature
        self.allocator = FocusAllocator(config.allocator, spec.geometry, spec.max_lod, self.budget.recent, temperature=temperature)
        self.context = WorkingContext(memory.model, tree, memory.config.positional_type)
        self._child_keys = ChildKeyCache(memory.model, tree, memory.lensnet.matching)
        self._local = memory.config.positional_type == "local"
        self._reads_hidden = memory.gistnet.reads_hidden
        self._noted_states: list[Tensor] = []  # [1,D] each
        D = memory.model.config.width
        self._states = torch.zeros(0, D, dtype=memory.model.dtype, device=self.context.x.device)  # of the incomplete block's tokens
        self._open(focus)
        if self._reads_hidden:
            self._recall_states()

    def read(self) -> tuple[Layout, Embedded, Rotary]:
        """The Working Context, as batches of one row: its layout, entries and rotations."""
        self.flush()
        return self.context.layout, *self.context.entries(0)

    # Interface to a cache: see `nanochat.infer.memory_kv_cache.ExternalMemory`.

    @property
    def position(self) -> int:
        """See `ExternalMemory`."""
        return len(self.context) + len(self._noted) if self._local else self.length

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> int:
        """See `ExternalMemory`. Runs at least as many refocus iterations as there are levels, to reach tokens under high gists."""
        first = self._append(tokens)
        levels = int(self.context.tiling.lod.max(initial=0))
        return min(first, self.refocus(max(self.config.allocator.allocator_iterations, levels)))

    @torch.no_grad()
    def note(self, token: Tensor, middle: Tensor) -> int | None:
        """See `ExternalMemory`."""
        self.check_room(1)
        self._noted.append(token)
        if self._reads_hidden:
            self._noted_states.append(middle.to(self._states.dtype, copy=True))
        self._since += 1
        return self.refocus() if self._since >= self.budget.interval else None

    def entries(self, begin: int) -> tuple[Embedded, Rotary]:
        """See `ExternalMemory`."""
        return self.context.entries(begin)

    def _lens_scores(self) -> np.ndarray:
        lensnet = self.memory.lensnet
        children = self._child_keys(self.context.tiling, self.context.x, lensnet.newest)
        return lensnet(self.context.x[None], self.context.layout, self.tree.length, children, WIDTH_STEP)[0].cpu().numpy()

    def _take(self, tokens: Tensor) -> int:
        first = len(self.context)
        for piece in tokens.split(STATES_PIECE * self.budget.most if self._reads_hidden else PIECE):
            first = min(first, self._add(piece, self._read_states(piece) if self._reads_hidden else None))
        return first

    def _take_noted(self) -> int:
        first = self._add(torch.cat(self._noted).cpu(), torch.cat(self._noted_states) if self._reads_hidden else None)
        self._noted_states = []
        return first

    def _add(self, tokens: Tensor, states: Tensor | None) -> int:
        """Adds tokens [n] to tree and layout, with their hidden states [n,D] if gists are made of these."""
        if states is not None:
            states = torch.cat([self._states, states])
        append_tokens(self.tree, self.memory.model, self.memory.gistnet, tokens, states)
        if states is not None:  # last: if the disk fails, nothing has changed
            self._states = states[len(states) - self.tree.length % self.tree.spec.geometry.block_size :]
        first = self.context.change(*self._covering(self.context.tiling, self.tree.length))
        self.hooks.appended(self)
        return first

    def _read_states(self, tokens: Tensor) -> Tensor:
        """Hidden states [n,D] after the middle layer at `tokens` [n], read after the Working Context."""
        model, W = self.memory.model, len(self.context)
        known, rotary = self.context.entries(0)
        new = embed(model, self.tree, self.tree.length, tokens)
        rotary_new = self.context.rotary(raw(self.tree.length, self.tree.length + len(tokens)), W)
        entries = Embedded(torch.cat([known.x, new.x[None]], dim=1), torch.cat([known.values, new.values[None]], dim=1))
        both = Rotary(*(torch.cat(parts, dim=1) for parts in zip(rotary, rotary_new, strict=True)))
        return self._middle(entries, both)[W:]

    @torch.no_grad()
    def _recall_states(self) -> None:
        """Recomputes the hidden states of the incomplete block's tokens, which no file keeps."""
        incomplete = self.tree.length % self.tree.spec.geometry.block_size
        if incomplete:
            self._states = self._middle(*self.context.entries(0))[-incomplete:]

    def _middle(self, entries: Embedded, rotary: Rotary) -> Tensor:
        """Hidden states [W,D] after the middle layer at W entries, given as a batch of one row."""
        W = entries.x.shape[1]
        padded = pad_entries(entries, rotary, WIDTH_STEP)
        return self.memory.model.layers(*padded, attn_hook=EagerAttention(), half=True)[1][0, :W]
