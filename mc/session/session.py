"""Session: one history of any length, of which the model reads a Working Context of bounded size.

`append` adds tokens to the tree, which computes the gist of each complete block once; `refocus` lets LensNet and the Focus Allocator
choose what is in detail; `read` gives the entries. The cost of a token depends on the budget, never on the history. A session is also
the `ExternalMemory` behind a row of a `MemoryKVCache`. Shapes: `n` tokens, `W` entries, `D` width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.layout.layout import Geometry, Layout, check
from mc.layout.tiling import Tiling, extended, raw
from mc.memory_model import MemoryModel
from mc.session.allocator import FocusAllocator, coarsest_width, count_blocks, swap_rate
from mc.session.budget import Budget, FocusFigures
from mc.session.child_key_cache import ChildKeyCache
from mc.session.hooks import SessionHooks
from mc.session.tree import MegaContextTree, TreeSpec
from mc.session.tree_builder import PIECE, append_tokens, embed
from mc.session.working_context import WorkingContext
from nanochat.common import UserError, read_json, write_json
from nanochat.model.attention import EagerAttention
from nanochat.model.gpt import Embedded, Rotary, pad_entries

WIDTH_STEP = 32  # entries: computations over all of them are padded to multiples of it
STATES_PIECE = 4  # Working Contexts of tokens that are read at once for their hidden states


def session_spec(memory: MemoryModel, config: SessionConfig) -> TreeSpec:
    """Spec of the trees that sessions of this memory have."""
    model = memory.model.config
    values = len(memory.model.value_layers) * model.key_heads * model.head_dim
    return TreeSpec(model.width, memory.config.geometry, config.mc_session_lod, memory.model.dtype, values, model.vocab_size)


def session_budget(memory: MemoryModel, config: SessionConfig) -> Budget:
    """Budget of the Working Context. Raises `ValueError` if `config` leaves too little for a long history."""
    plan, geometry, interval = memory.plan, memory.config.geometry, config.mc_infer_refocus_interval
    least = least_entries(geometry, config.mc_session_lod, plan.recent) + interval
    most = config.allocator.allocator_soft_max_length
    if 0 < most < least:
        raise ValueError(
            f"allocator_soft_max_length is {most}; {config.mc_session_lod} levels (mc_session_lod) of block_size {geometry.block_size} "
            f"and {plan.recent} recent tokens, refocused every {interval} (mc_infer_refocus_interval), take up to {least} entries"
        )
    return Budget(most or max(plan.final_width, least + 2 * geometry.block_size), interval, plan.recent)


def least_entries(geometry: Geometry, levels: int, recent: int) -> int:
    """The most entries that a history of up to K^(levels+1) tokens takes at its coarsest."""
    K = geometry.block_size
    return recent + K - 1 + geometry.slots * ((levels - 1) * (K - 1) + K)


class MCSession:
    """The history in `tree` and its Working Context, read by the model of `memory`. Not thread-safe.

    A tree that is not empty is laid out at once: as in `focus`, which another session's `focused` gave; as `save` has left it in
    `file`; or else with the most recent tokens in most detail. Raises `ValueError` if `config` does not fit the memory.
    """

    def __init__(
        self,
        memory: MemoryModel,
        tree: MegaContextTree,
        config: SessionConfig,
        seed: int = 0,
        file: Path | None = None,
        hooks: SessionHooks | None = None,
        focus: dict[str, Any] | None = None,
    ) -> None:
        kind = memory.config.positional_type
        if tree.spec != session_spec(memory, config):
            raise ValueError(f"invalid tree: it holds {tree.spec}; expected {session_spec(memory, config)}")
        self.memory, self.tree, self.config, self.file = memory, tree, config, file
        self.hooks = hooks or SessionHooks()
        self.budget = session_budget(memory, config)
        temperature = memory.config.lens_loss.mc_lens_temperature
        self.allocator = FocusAllocator(config.allocator, tree.spec.geometry, tree.spec.max_lod, self.budget.recent, seed, temperature)
        self.context = WorkingContext(memory.model, tree, kind)
        self._child_keys = ChildKeyCache(memory.model, tree, memory.lensnet.matching)
        self.figures = FocusFigures()
        self._local = kind == "local"
        self._reads_hidden = memory.gistnet.reads_hidden
        self._noted: list[Tensor] = []  # decoded tokens that are not in the tree yet, int64 [1] each
        self._noted_states: list[Tensor] = []  # [1,D] each
        D = memory.model.config.width
        self._states = torch.zeros(0, D, dtype=memory.model.dtype, device=self.context.x.device)  # of the incomplete block's tokens
        self._since = 0  # tokens since the last refocus
        if focus is None and file is not None and file.exists():
            focus = read_json(file)
        if focus is None or not self._restore(focus):
            self._cover(tree.length)
        if self._reads_hidden:
            self._recall_states()

    @property
    def length(self) -> int:
        """Tokens of the history."""
        return self.tree.length + len(self._noted)

    @property
    def capacity(self) -> int:
        """The longest history, in tokens, that is guaranteed to fit the budget at its coarsest."""
        spec, budget = self.tree.spec, self.budget
        K, slots, levels = spec.geometry.block_size, spec.geometry.slots, spec.max_lod
        top = (budget.target - budget.recent - K + 1) // slots - (levels - 1) * (K - 1)  # nodes of the highest level
        return top * spec.geometry.span(levels)

    @torch.no_grad()
    def append(self, tokens: Tensor) -> None:
        """Adds tokens, int64 [n], that no cache has read.

        Raises `ValueError` for an invalid token and `UserError` if there is no room; nothing is added then.
        """
        self._append(tokens)
        if self._since >= self.budget.interval or len(self.context) > self.budget.target:
            self.refocus()

    @torch.no_grad()
    def refocus(self, iterations: int | None = None) -> int:
        """Runs one refocus. Returns the index of the first entry that changed.

        `iterations` of scoring and editing are by default those of the configuration.
        """
        self.hooks.refocusing(self)
        first = self._flush()
        if len(self.context) <= self.budget.target and not self.context.tiling.lod.any():
            iterations = 0  # everything is raw: there is nothing to choose
        geometry, edited, blocks = self.tree.spec.geometry, [], count_blocks(self.context.tiling, self.tree.spec.geometry)
        for _ in range(self.config.allocator.allocator_iterations if iterations is None else iterations):
            scores = self.scores()
            tiling, source = self._fitted(self.context.tiling, self.tree.length, self.budget.target, scores)
            kept = np.where(source < 0, scores.min(initial=0), scores[source])  # entries that had to become gists scored lowest
            edits = self.allocator.plan(tiling, self.tree.length, self.budget.target, kept)
            tiling, again = self.allocator.apply(tiling, edits)
            first = min(first, self.context.change(tiling, _composed(source, again)))
            edited += edits
            if not edits:
                break
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

    def check_room(self, tokens: int) -> None:
        """Raises `UserError` if the history has no room for `tokens` more."""
        left = max(0, self.capacity - self.length)
        if tokens > left:
            more = f"--mc-session-lod above {self.tree.spec.max_lod} or --allocator-soft-max-length above {self.budget.most}"
            raise UserError(
                f"the session has {self.length:,} tokens and room for {left:,}, not for {tokens:,}; start a new one with {more}"
            )

    def scores(self) -> np.ndarray:
        """LensNet's score of each entry, fp32 [W]."""
        if not len(self.context):
            return np.zeros(0, dtype=np.float32)
        lensnet = self.memory.lensnet
        children = self._child_keys(self.context.tiling, self.context.x, lensnet.newest)
        return lensnet(self.context.x[None], self.context.layout, self.tree.length, children, WIDTH_STEP)[0].cpu().numpy()

    def read(self) -> tuple[Layout, Embedded, Rotary]:
        """The Working Context, as batches of one row: its layout, entries and rotations."""
        self._flush()
        return self.context.layout, *self.context.entries(0)

    def save(self) -> None:
        """Makes the tree durable and, if the session has a `file`, the focus."""
        self._flush()
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

    # Interface to a cache: see `nanochat.infer.memory_kv_cache.ExternalMemory`.

    @property
    def position(self) -> int:
        """See `ExternalMemory`."""
        return len(self.context) + len(self._noted) if self._local else self.length

    @property
    def newest(self) -> int:
        """See `ExternalMemory`."""
        return int(self._noted[-1]) if self._noted else int(self.tree.tokens(self.tree.length - 1, self.tree.length))

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

    def _append(self, tokens: Tensor) -> int:
        """Adds tokens. Returns the first entry that changed."""
        tokens = tokens.to("cpu", torch.int64)
        vocabulary = self.tree.spec.vocab_size
        if tokens.ndim != 1 or (len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary)):
            raise ValueError(f"invalid tokens; expected int64 [n] from 0 to {vocabulary - 1}")
        self.check_room(len(tokens))
        first = self._flush()
        for piece in tokens.split(STATES_PIECE * self.budget.most if self._reads_hidden else PIECE):
            first = min(first, self._take(piece, self._read_states(piece) if self._reads_hidden else None))
        self._since += len(tokens)
        return first

    def _flush(self) -> int:
        """Moves noted tokens into tree and layout. Returns the first entry that changed."""
        if not self._noted:
            return len(self.context)
        first = self._take(torch.cat(self._noted).cpu(), torch.cat(self._noted_states) if self._reads_hidden else None)
        self._noted, self._noted_states = [], []  # last: if the disk fails, they are still to be written
        return first

    def _take(self, tokens: Tensor, states: Tensor | None) -> int:
        """Adds tokens [n] to tree and layout, with their hidden states [n,D] if gists are made of these."""
        if states is not None:
            states = torch.cat([self._states, states])
        append_tokens(self.tree, self.memory.model, self.memory.gistnet, tokens, states)
        if states is not None:  # last: if the disk fails, nothing has changed
            self._states = states[len(states) - self.tree.length % self.tree.spec.geometry.block_size :]
        first = self._cover(self.tree.length)
        self.hooks.appended(self)
        return first

    def _cover(self, end: int) -> int:
        """Extends the layout to token `end`: raw, and the oldest as gists if that exceeds the budget."""
        tiling = self.context.tiling
        source = np.arange(len(tiling.lod))
        covered = int(self._covered(tiling))
        while covered < end:
            upto = min(covered + PIECE, end)
            tiling = extended(tiling, covered, upto)
            source = np.append(source, np.full(upto - covered, -1))
            if len(tiling.lod) > self.budget.most:
                tiling, again = self._fitted(tiling, upto, self.budget.target)
                source = _composed(source, again)
            covered = upto
        return self.context.change(tiling, source)

    def _fitted(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray | None = None) -> tuple[Tiling, np.ndarray]:
        """Makes `tiling` fit `budget` entries; returns as `FocusAllocator.fit` does.

        A tiling that has to be cut is cut further, to leave room for one expansion, so that the focus can still move.
        """
        geometry = self.tree.spec.geometry
        if len(tiling.lod) > budget:
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
            rows = Layout(*(torch.from_numpy(part)[None] for part in tiling))
            end, spec = self._covered(tiling), self.tree.spec
            if not (end <= self.tree.length and 0 <= state["since"] <= end):
                return False
            check(rows, spec.geometry, end=end, max_entries=self.budget.most, recent=min(self.budget.recent, end), max_lod=spec.max_lod)
            self.allocator.load_state(state["allocator"])
        except (ValueError, TypeError, KeyError, IndexError, OverflowError):
            return False
        self._since = state["since"]
        self.context.change(tiling, np.full(len(tiling.lod), -1))
        self._cover(self.tree.length)
        return True

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


def _composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Composes the source indices of two changes of a layout, `first` before `second`; −1 = new."""
    return np.where(second < 0, -1, first[second])
