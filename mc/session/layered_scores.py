"""Scores of a layered Working Context: where the newest queries look, one level below each of its nodes.

Each query is compared with the slots, with the tokens below gists of level 1 that are in the pool, and with the gists below those of
higher levels that get the most attention. (To choose blocks by the attention to their gists alone loses a third of what is recovered.)

Shapes: `L` layers, `H` query heads, `G` key heads, `E` head size, `Q` queries, `U` nodes, `K` block size, `W` slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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

    @torch.no_grad()
    def __call__(self) -> np.ndarray:
        """Score of each entry, fp32 [W]. Hits on gists count as if they were spread evenly over what is below."""
        lod, start = self._context.tiling
        length = self._tree.length
        limit = raw_from(length, self._tree.spec.geometry, self._memory.plan.recent)
        first = np.flatnonzero((start % self._spans[lod.clip(min=1)] == 0) & ((lod > 0) | (start < limit)))
        scores = np.zeros(len(lod), dtype=np.float32)
        if not len(first) or not (self._new or self._queries.shape[2]):
            return scores
        levels, begin = lod[first], start[first]
        counts = self._remembered(first, levels, begin)
        far = torch.from_numpy(np.stack([levels, np.minimum(length - begin, self._memory.model.config.max_seq_len)])).to(counts.device)
        found = self._memory.lensnet.of_counts(counts[None], far[:1], far[1:], self._interval)[0].cpu().numpy()
        found = found - (levels - 1).clip(min=0) * 2 * np.log(self._K)  # scores are logarithms of squared attention
        sizes = np.where(levels > 0, self._S, self._K)
        offset = np.arange(sizes.sum()) - (sizes.cumsum() - sizes).repeat(sizes)
        scores[first.repeat(sizes) + offset] = found.repeat(sizes)
        return scores

    def _remembered(self, first: np.ndarray, levels: np.ndarray, begin: np.ndarray) -> Tensor:
        """Counts [Q,U,K] of the newest queries for the nodes that begin with the entries `first`; those of earlier calls are remembered."""
        names = _names(levels, begin // self._spans[levels.clip(min=1)])
        if not self._new and self._changes == self._context.changes and np.array_equal(names, self._of):
            return self._counts
        new = torch.cat(self._new, dim=2).float()[:, :, -NEWEST:] if self._new else None
        seen = self._seen if len(self._new) == 1 else None
        self._new, self._seen = [], None
        if new is not None:
            self._queries = torch.cat([self._queries, new], dim=2)[:, :, -NEWEST:]
        counts = self._found(first, levels, begin, self._queries if new is None else new, seen)
        if new is not None and (room := min(NEWEST - new.shape[2], len(self._counts))) > 0:
            order = self._of.argsort()
            at = order[self._of[order].searchsorted(names).clip(max=len(order) - 1)]
            known = torch.from_numpy((self._of[at] == names).astype(np.float32)).to(counts.device)[:, None]
            old = self._counts[len(self._counts) - room :].index_select(1, torch.from_numpy(at).to(counts.device)) * known
            counts = torch.cat([old, counts])
        self._counts, self._of, self._changes = counts, names, self._context.changes
        return counts

    def _found(self, first: np.ndarray, levels: np.ndarray, begin: np.ndarray, queries: Tensor, known: Seen | None) -> Tensor:
        """Counts [Q,U,K] of `queries` [L,H,Q,E], those of the newest tokens, whose attention to the slots may be `known`."""
        L, H, Q, E = queries.shape
        if known is None or known.changes != self._context.changes or known.seen.shape[2] != Q:
            known = self._attention(queries)
        # What lies below some nodes takes the place of their gists in the softmax.
        below, shown = self._below(levels, begin // self._spans[levels.clip(min=1)], first, queries, known)
        gone = self._at(known.seen, first[shown], self._S).sum((-1, -2))
        share = 1 / (1 - gone + sum(seen.sum((-1, -2)) for _, seen in below))  # (L, H, Q)
        counts = torch.zeros(Q, len(levels), self._K, device=queries.device)
        rest = np.setdiff1d(np.flatnonzero(levels), shown)
        for at, size in ((np.flatnonzero(levels == 0), self._K), (rest, self._S)):
            if len(at):
                found = self._counted(self._at(known.seen, first[at], size), share)
                if size < self._K:  # the attention to a gist is taken to be spread evenly over what is below
                    found = (found.sum(-1, keepdim=True) / self._K**2).expand(-1, -1, self._K)
                counts.index_copy_(1, _index(at, counts), found)
        for at, seen in below:
            found = self._counted(seen, share)
            if levels[at[0]] > 1:  # there are no tokens to point at
                found = F.pad(found.sum(-1, keepdim=True), (0, self._K - 1))
            counts.index_copy_(1, _index(at, counts), found)
        return counts

    def _counted(self, seen: Tensor, share: Tensor) -> Tensor:
        """LensNet's counts [Q,U,·] of attention [L,H,Q,U,·], of which `share` [L,H,Q] is left in the whole softmax."""
        return self._memory.lensnet.counts((seen.float() * share[..., None, None]).square()[None])[0]

    def _at(self, seen: Tensor, first: np.ndarray, size: int) -> Tensor:
        """Attention [L,H,Q,U,size] to the `size` entries from each entry `first` on."""
        index = self._context.slot[first[:, None] + np.arange(size)].flatten()
        return seen.index_select(-1, _index(index, seen)).unflatten(-1, (len(first), size))

    def _below(
        self, levels: np.ndarray, numbers: np.ndarray, first: np.ndarray, queries: Tensor, known: Seen
    ) -> tuple[list[tuple[np.ndarray, Tensor]], np.ndarray]:
        """(indices of nodes and the attention [L,H,Q,U,C] to what is below them, relative to the softmax over the slots; all of these
        indices). These are the nodes of level 1 whose tokens are in the pool, and those of higher levels that get the most attention."""
        L, H, Q, E = queries.shape
        q = (queries * E**-0.5).view(L, self._G, -1, E)
        near = np.array([at for at in np.flatnonzero(levels == 1).tolist() if (1, int(numbers[at])) in self._context.pool], dtype=np.int64)
        far = np.flatnonzero(levels > 1)
        if len(far) > CANDIDATES:
            best = self._at(known.seen, first[far], self._S).square().sum((0, 1, 2, 4)).topk(CANDIDATES).indices
            far = np.sort(far[best.cpu().numpy()])
        found = []
        for chosen, pool in ((near, self._context.pool), (far, self._children)):
            if not len(chosen):
                continue
            names = list(zip(levels[chosen].tolist(), numbers[chosen].tolist(), strict=True))
            if pool is self._children:
                self._load([name for name in names if name not in pool])
            else:
                self._context.placed(names)
            keys = pool.keys(names)  # (L, G, U, C, E)
            scores = (q.to(keys.dtype) @ keys.flatten(2, 3).mT).float()
            if pool is self._children:
                scores = scores + pool.bias(names).flatten(2).unsqueeze(2)
            seen = scores.view(L, H, Q, -1).sub_(known.mass.unsqueeze(-1)).exp_()
            found.append((chosen, seen.unflatten(-1, keys.shape[2:4])))
        return found, np.concatenate([near, far])

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


def _index(places: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _names(levels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One number for each node; a block of raw tokens is the node of level 1 that it would become."""
    return levels.clip(min=1) + 64 * numbers
