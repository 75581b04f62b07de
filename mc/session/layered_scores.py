"""Scores of a layered Working Context: where the newest queries look, one level below each of its nodes.

Each query is compared with the slots, with the tokens below gists of level 1 that are in the pool, and with the gists below those of
higher levels that get the most attention. (To choose blocks by the attention to their gists alone loses a third of what is recovered.)

Shapes: `L` layers, `H` query heads, `G` key heads, `E` head size, `Q` queries, `U` nodes, `C` entries below a node, `K` block size,
`W` slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.memory_model import MemoryModel
from mc.nets.layered_lens import NEWEST
from mc.session.allocator import raw_from
from mc.session.block_pool import Below, BlockPool, Node
from mc.session.layered_context import LayeredContext
from mc.session.tree import MegaContextTree

CANDIDATES = 16  # nodes above level 1
POOL_NODES = 96  # of higher levels, the children of which are kept


class Seen(NamedTuple):
    """Attention [L,H,Q,W] of queries to slots, the logarithms of their softmax's denominators [L,H,Q], and the number of changes that
    the slots had seen."""

    seen: Tensor
    mass: Tensor
    changes: int


class _Nodes(NamedTuple):
    """Nodes of a Working Context, raw blocks that may become gists included; arrays [U]."""

    key: tuple[int, int]  # with which they are valid
    first: np.ndarray  # first entry
    levels: np.ndarray
    begin: np.ndarray  # first token
    numbers: np.ndarray
    names: np.ndarray
    sizes: np.ndarray  # entries
    entries: np.ndarray  # all of them, [sum of sizes]
    deeper: np.ndarray  # logarithm that a score is less by, because the attention is spread over more tokens


class _View(NamedTuple):
    """What the nodes of a Working Context show to queries, as indices of nodes and slots: the tokens of raw blocks, what is below
    gists, or else these themselves."""

    changes: tuple[int, ...]  # with which it is valid
    names: np.ndarray
    above: np.ndarray  # nodes of higher levels of which the children are shown
    near_nodes: list[Node]
    raw: Tensor
    gists: Tensor
    near: Tensor  # of level 1, in the order of the pool, as `far`
    far: Tensor
    raw_slots: Tensor
    gist_slots: Tensor
    gone: Tensor  # slots of gists in whose place is what is below them


class LayeredScores:
    """LensNet's scores of the entries of `context`, for the next `interval` tokens."""

    def __init__(self, memory: MemoryModel, tree: MegaContextTree, context: LayeredContext, interval: int) -> None:
        self._memory, self._tree, self._context, self._interval = memory, tree, context, interval
        config, geometry = memory.model.config, tree.spec.geometry
        self._K, self._S, self._G = geometry.block_size, geometry.slots, config.key_heads
        self._spans = np.array([geometry.span(level) for level in range(tree.spec.max_lod + 1)])
        shape = (config.depth, config.key_heads, 0, self._K * self._S, config.head_dim)
        empty = torch.zeros(shape, dtype=memory.model.dtype, device=memory.device)
        values = empty[..., :0]  # not needed here
        self._children = BlockPool(POOL_NODES, Below(empty, values, torch.zeros(shape[:-1], device=memory.device)))
        self._new: list[Tensor] = []  # queries since the last call, [L,H,·,E] each
        self._seen: Seen | None = None  # of the last of these
        self._queries = torch.zeros(config.depth, config.heads, 0, config.head_dim, device=memory.device)
        self._counts = torch.zeros(0, 0, self._K, device=memory.device)  # LensNet's, of these queries, [Q,U,K]
        self._of = np.zeros(0, dtype=np.int64)  # the node of each column: see `_names`
        self._changes = -1  # those that the slots had seen then
        self._nodes: _Nodes | None = None
        self._view: _View | None = None

    def add(self, queries: Tensor) -> None:
        """Adds the queries [L,H,n,E] of the newest tokens."""
        self._new.append(queries)

    def note(self, queries: list[Tensor], seen: list[Tensor], keys: Tensor) -> None:
        """Adds the queries [L,H,E] of decoded tokens, their attention `seen` [L,H,·] to the slots, and their own keys [L,G,n,E]."""
        own = torch.stack([part[..., -1] for part in seen], dim=2)  # to themselves
        stacked = torch.stack(queries, dim=2).float()  # (L, H, n, E)
        scores = (stacked.unflatten(1, (self._G, -1)) * keys.unsqueeze(2)).sum(-1).flatten(1, 2) * keys.shape[3] ** -0.5
        W = len(self._context)
        self._seen = Seen(torch.stack([part[..., :W] for part in seen], dim=2), scores - own.float().log(), self._context.changes)
        self._new.append(stacked)

    def placed_anew(self) -> None:
        """Forgets what depends on the places of entries."""
        self._children.clear()
        self._view = None

    @torch.inference_mode()
    def __call__(self) -> np.ndarray:
        """Score of each entry, fp32 [W]. Hits on gists count as if they were spread evenly over what is below."""
        nodes, length = self._nodes_now(), self._tree.length
        scores = np.zeros(len(self._context), dtype=np.float32)
        if not len(nodes.first) or not (self._new or self._queries.shape[2]):
            return scores
        counts = self._remembered(nodes)
        distance = np.minimum(length - nodes.begin, self._memory.model.config.max_seq_len)
        level, distance = (torch.from_numpy(part).to(counts.device)[None] for part in (nodes.levels, distance))
        found = self._memory.lensnet.of_counts(counts[None], level, distance, self._interval)[0].cpu().numpy()
        scores[nodes.entries] = (found - nodes.deeper).repeat(nodes.sizes)
        return scores

    def _nodes_now(self) -> _Nodes:
        """The nodes of the Working Context; the entries that decoding adds are of none."""
        limit = raw_from(self._tree.length, self._tree.spec.geometry, self._memory.plan.recent)
        key = self._context.changes, limit
        if self._nodes is None or self._nodes.key != key:
            lod, start = self._context.tiling
            first = np.flatnonzero((start % self._spans[lod.clip(min=1)] == 0) & ((lod > 0) | (start < limit)))
            levels, begin = lod[first], start[first]
            numbers = begin // self._spans[levels.clip(min=1)]
            sizes = np.where(levels > 0, self._S, self._K)
            entries = np.arange(sizes.sum()) + (first - (sizes.cumsum() - sizes)).repeat(sizes)
            deeper = (levels - 1).clip(min=0) * 2 * np.log(self._K)  # scores are logarithms of squared attention
            self._nodes = _Nodes(key, first, levels, begin, numbers, _names(levels, numbers), sizes, entries, deeper)
        return self._nodes

    def _remembered(self, nodes: _Nodes) -> Tensor:
        """Counts [Q,U,K] of the newest queries for the nodes; those of earlier calls are remembered."""
        if not self._new and self._changes == self._context.changes and np.array_equal(nodes.names, self._of):
            return self._counts
        new = torch.cat(self._new, dim=2).float()[:, :, -NEWEST:] if self._new else None
        seen = self._seen if len(self._new) == 1 else None
        self._new, self._seen = [], None
        if new is not None:
            self._queries = torch.cat([self._queries, new], dim=2)[:, :, -NEWEST:]
        counts = self._found(nodes, self._queries if new is None else new, seen)
        if new is not None and (room := min(NEWEST - new.shape[2], len(self._counts))) > 0:
            old = self._counts[len(self._counts) - room :]
            if nodes.names is not self._of:
                order = self._of.argsort()
                at = order[self._of[order].searchsorted(nodes.names).clip(max=len(order) - 1)]
                known = torch.from_numpy((self._of[at] == nodes.names).astype(np.float32)).to(counts.device)[:, None]
                old = old.index_select(1, _index(at, counts)).mul_(known)
            counts = torch.cat([old, counts])
        self._counts, self._of, self._changes = counts, nodes.names, self._context.changes
        return counts

    def _found(self, nodes: _Nodes, queries: Tensor, known: Seen | None) -> Tensor:
        """Counts [Q,U,K] of `queries` [L,H,Q,E], those of the newest tokens, whose attention to the slots may be `known`."""
        L, H, Q, E = queries.shape
        if known is None or known.changes != self._context.changes or known.seen.shape[2] != Q:
            known = self._attention(queries)
        view = self._view = self._viewed(nodes, known)
        self._context.pool.touch(view.near_nodes)
        seen, mass = known.seen.float().flatten(0, 1), known.mass.reshape(L * self._G, 1, -1)  # (L·H, Q, W), (L·G, 1, H/G·Q)
        grouped = (queries * E**-0.5).view(L * self._G, -1, E)
        below = {}
        for at, pool in ((view.near, self._context.pool), (view.far, self._children)):
            if len(at):
                below[pool] = self._attended(pool, len(at), grouped, mass)
        # What lies below some nodes takes the place of their gists in the softmax.
        left = 1 - seen.index_select(-1, view.gone).sum(-1)
        for part in below.values():
            left += part.view(len(grouped), -1, mass.shape[2]).sum(1).view_as(left)
        weight = self._memory.lensnet.heads.exp().unsqueeze(1) / left.square()  # (L·H, Q)
        slots = (seen.square() * weight.unsqueeze(-1)).sum(0)  # (Q, W)
        counts = torch.zeros(Q, len(nodes.first), self._K, device=queries.device)
        counts.index_copy_(1, view.raw, slots.index_select(1, view.raw_slots).view(Q, -1, self._K))
        # The attention to a gist is taken to be spread evenly over what is below.
        spread = slots.index_select(1, view.gist_slots).view(Q, -1, self._S).sum(-1, keepdim=True) / self._K**2
        counts.index_copy_(1, view.gists, spread.expand(-1, -1, self._K))
        for pool, part in below.items():
            hits = (
                _tiled(torch.mul, part.square_(), weight.view_as(mass))
                .sum(0)
                .view(-1, H // self._G, Q)
                .sum(1)
                .mT.reshape(Q, len(part[0]), -1)
            )
            if pool is self._children:  # there are no tokens to point at
                counts[:, :, 0].index_copy_(1, view.far, hits.sum(-1))
            else:
                counts.index_copy_(1, view.near, hits)
        return counts

    def _attended(self, pool: BlockPool, nodes: int, queries: Tensor, mass: Tensor) -> Tensor:
        """Attention [L·G,U,C·H/G·Q] of queries [L·G,H/G·Q,E] to what is below the nodes in the first places of a pool, relative to a
        softmax with the logarithms `mass` of its denominators, [L·G,1,H/G·Q]."""
        keys, _, bias = pool.first(nodes)
        keys = keys.flatten(0, 1)  # (L·G, U, C, E)
        scores = torch.bmm(keys.flatten(1, 2), queries.to(keys.dtype).mT).float()  # the order in which products of bf16 are fast
        if pool is self._children:
            scores += bias.flatten(0, 1).flatten(1).unsqueeze(-1)
        return _tiled(torch.sub, scores.view(*keys.shape[:2], -1), mass).exp_()

    def _viewed(self, nodes: _Nodes, known: Seen) -> _View:
        """Where to look, and brings what is below nodes to the first places of its pool."""
        _, first, levels, _, numbers, names, *_ = nodes
        far = np.flatnonzero(levels > 1)
        if len(far) > CANDIDATES:
            index = self._context.slot[first[far, None] + np.arange(self._S)]
            best = (
                known.seen[..., torch.from_numpy(index).to(known.seen.device)].float().square().sum((0, 1, 2, 4)).topk(CANDIDATES).indices
            )
            far = np.sort(far[best.cpu().numpy()])
        pool, view = self._context.pool, self._view
        if (
            view is not None
            and view.changes == (self._context.changes, pool.changes, self._children.changes)
            and view.names is names
            and np.array_equal(view.above, far)
        ):
            return view
        near = [at for at in np.flatnonzero(levels == 1).tolist() if (1, int(numbers[at])) in pool]
        blocks = self._context.placed([(1, number) for number in numbers[near].tolist()])
        above = list(zip(levels[far].tolist(), numbers[far].tolist(), strict=True))
        self._children.touch(above)
        self._load([node for node in above if node not in self._children])
        shown = np.array(near, dtype=np.int64)[pool.in_front(blocks)], far[self._children.in_front(above)]
        is_gist = levels > 0
        is_gist[np.concatenate(shown)] = False
        raw, gists = np.flatnonzero(levels == 0), np.flatnonzero(is_gist)
        slots = [(raw, self._K), (gists, self._S), (np.concatenate(shown), self._S)]
        slots = [self._context.slot[first[at, None] + np.arange(size)].flatten() for at, size in slots]
        changes = self._context.changes, pool.changes, self._children.changes
        return _View(changes, names, far, blocks, *(_index(part, known.seen) for part in (raw, gists, *shown, *slots)))

    def _attention(self, queries: Tensor) -> Seen:
        """Attention of the newest tokens' queries [L,H,Q,E] to the slots."""
        context, slots, (L, H, Q, E) = self._context, self._context.slots, queries.shape
        W, dtype = len(context), slots.keys[0].dtype
        layers = zip((queries * E**-0.5).view(L, self._G, -1, E).to(dtype), slots.keys, slots.bias, strict=True)
        seen = torch.stack([torch.baddbmm(b[:, None, :W].to(dtype), q, k[:, :W].mT) for q, k, b in layers])
        seen = seen.float().view(L, H, Q, W)
        later = np.empty((Q, W), dtype=bool)
        later[:, context.slot] = context.tiling.start > np.arange(self._tree.length - Q, self._tree.length)[:, None]
        seen = seen.masked_fill_(torch.from_numpy(later).to(seen.device), float("-inf"))
        mass = seen.logsumexp(-1)
        return Seen(seen.sub_(mass.unsqueeze(-1)).exp_(), mass, context.changes)

    def _load(self, nodes: list[Node]) -> None:
        """Loads the children of nodes of level ≥ 2."""
        for level, number in nodes:
            keys, values, bias = self._context.gists(level - 1, np.arange(number * self._K, (number + 1) * self._K))
            below = Below(*(part.flatten(2, 3).unsqueeze(2) for part in (keys, values[..., :0], bias)))
            self._children.put([(level, number)], below)


def _tiled(operator: Callable[..., Tensor], parts: Tensor, rows: Tensor) -> Tensor:
    """Changes parts [B,U,C·n] by rows [B,1,n]; to broadcast short rows takes a CPU three times as long."""
    return operator(parts, rows.repeat(1, 1, parts.shape[2] // rows.shape[2]), out=parts)


def _index(places: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _names(levels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One number for each node; a block of raw tokens is the node of level 1 that it would become."""
    return levels.clip(min=1) + 64 * numbers
