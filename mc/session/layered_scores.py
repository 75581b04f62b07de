"""Scores of a layered Working Context: LensNet on where the newest queries look, at a cost that does not depend on the history.

A look is kept as a place and a weight: what a query's attention finds among the slots, and what `MatchIndex` finds in the whole
history. Raw blocks of higher nodes are scored one by one, and a node scores as its best one. Shapes: `L` layers, `H` query heads, `G` key
heads, `E` head size, `Q` queries, `U` nodes, `K` block size, `W` slots, `P` looks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.memory_model import MemoryModel
from mc.nets.layered_lens import LEAST, NEWEST, LayeredLensNet
from mc.nets.matches import LONGEST, MatchIndex
from mc.session.allocator import raw_from
from mc.session.layered_context import LayeredContext
from mc.session.tree import MegaContextTree

UNSEEN = 1e-6  # what points into a node that nothing looks at; more, times the blocks of a high gist, would keep it from giving way


class Looks(NamedTuple):
    """Looks, all [P]: number of the query in the history, first token of the slot that is looked at, its level, and the weight."""

    query: np.ndarray
    place: np.ndarray
    level: np.ndarray
    weight: np.ndarray


NONE = Looks(*(np.zeros(0, dtype=np.int64) for _ in range(3)), np.zeros(0, dtype=np.float32))


class _Nodes(NamedTuple):
    """Nodes of a Working Context, raw blocks that may become gists included; arrays [U]."""

    key: tuple[int, int]  # with which they are valid
    levels: np.ndarray
    begin: np.ndarray  # first token
    sizes: np.ndarray  # entries
    entries: np.ndarray  # all of them, [sum of sizes]


class LayeredScores:
    """LensNet's scores of the entries of `context`, for the next `interval` tokens."""

    def __init__(self, memory: MemoryModel, tree: MegaContextTree, context: LayeredContext, interval: int) -> None:
        self._memory, self._tree, self._context = memory, tree, context
        self._geometry, self._K = tree.spec.geometry, tree.spec.geometry.block_size
        self._spans = np.array([self._geometry.span(level) for level in range(tree.spec.max_lod + 1)])
        self._index = MatchIndex()
        self._matched = 0  # queries whose matches are known: those of the tokens before this one
        self._read: list[tuple[Tensor, int]] = []  # queries [L,H,·,E] whose looks are not known yet, and the token after them
        self._looks = NONE
        self._nodes: _Nodes | None = None
        lensnet: LayeredLensNet = memory.lensnet
        with torch.no_grad():
            self._leads = lensnet.leads_to(self._K, interval).cpu().numpy()  # [NEWEST,K,D]
            self._heads = lensnet.heads.exp().view(-1, 1, 1)
            self._lengths, self._copying = lensnet.lengths.exp().cpu().numpy(), float(lensnet.copying.exp())
        # Looks at a slot of level 1 are spread over its tokens, [NEWEST,S,D]. Those at higher gists lead as much into each block as out of
        # it, [NEWEST].
        slots = self._leads.reshape(NEWEST, self._geometry.slots, -1, self._leads.shape[2])
        self._leads_of_slot = slots.mean(2) / self._geometry.stride(1)
        self._leads_of_block = self._leads.sum((1, 2))

    def add(self, queries: Tensor) -> None:
        """Adds the queries [L,H,n,E] of the newest tokens, which have just been read and laid out."""
        length = self._tree.length
        self._read = [part for part in self._read if part[1] > length - NEWEST] + [(queries, length)]

    @torch.inference_mode()
    def __call__(self) -> np.ndarray:
        """Score of each entry, fp32 [W]: without LensNet's weight of what is not looked at, which would make all alike."""
        nodes, length = self._nodes_now(), self._tree.length
        scores = np.zeros(len(self._context), dtype=np.float32)
        if not len(nodes.begin):
            return scores
        for queries, end in self._read:
            self._keep(self._weights(self._attention(queries, end)), end)
        self._read = []
        self._match(length)
        scores[nodes.entries] = np.log(self._reached(nodes, length) + np.float32(UNSEEN)).repeat(nodes.sizes)
        return scores

    def _nodes_now(self) -> _Nodes:
        """The nodes of the Working Context; the entries that decoding adds are of none."""
        limit = raw_from(self._tree.length, self._geometry, self._memory.plan.recent)
        key = self._context.changes, limit
        if self._nodes is None or self._nodes.key != key:
            lod, start = self._context.tiling
            first = np.flatnonzero((start % self._spans[lod.clip(min=1)] == 0) & ((lod > 0) | (start < limit)))
            levels = lod[first]
            sizes = np.where(levels > 0, self._geometry.slots, self._K)
            entries = np.arange(sizes.sum()) + (first - (sizes.cumsum() - sizes)).repeat(sizes)
            self._nodes = _Nodes(key, levels, start[first], sizes, entries)
        return self._nodes

    def _weights(self, seen: Tensor) -> np.ndarray:
        """Weights [Q,W] of looks at the slots from the attention [L,H,Q,W] to them."""
        return (seen.float().square().flatten(0, 1) * self._heads).sum(0).cpu().numpy()

    def _keep(self, weights: np.ndarray, end: int) -> None:
        """Keeps looks of the tokens before `end` at the slots, by their weights [Q,·]."""
        lod, start = self._context.tiling
        weights = weights[:, self._context.slot]
        query, entry = np.nonzero(weights >= LEAST)
        self._add(Looks(query + end - len(weights), start[entry], lod[entry], weights[query, entry]))

    def _add(self, looks: Looks) -> None:
        both = Looks(*map(np.concatenate, zip(self._looks, looks, strict=True)))
        fresh = both.query >= self._tree.length - NEWEST
        self._looks = Looks(*(part[fresh] for part in both))

    def _match(self, length: int) -> None:
        """Adds the matches of the queries up to token `length`."""
        limit = raw_from(length, self._geometry, self._memory.plan.recent)
        self._index.add(self._tree.tokens(self._index.length, max(self._index.length, limit)).numpy())
        queries = min(length - self._matched, NEWEST)
        self._matched = length
        if queries and self._index.length:
            newest = self._tree.tokens(max(0, length - queries - LONGEST + 1), length).numpy()
            found = self._index.find(newest, queries, length)
            weights = self._lengths[found.length - 1]
            weights = self._copying * (weights / np.bincount(found.query, weights, queries)[found.query]) ** 2
            keep = weights >= LEAST
            query = found.query[keep] + length - queries
            self._add(Looks(query, found.place[keep], np.zeros_like(query), weights[keep].astype(np.float32)))

    def _reached(self, nodes: _Nodes, length: int) -> np.ndarray:
        """Sum of what leads into each node, or into the best block below it, fp32 [U]; see `LayeredLensNet.reached`."""
        query, place, level, weight = self._looks
        age = length - 1 - query
        raw, low, high = (np.flatnonzero(kind) for kind in (level == 0, level == 1, level > 1))
        offset = place % self._K
        into = np.empty((len(raw) + len(low), self._leads.shape[2]), dtype=np.float32)
        into[: len(raw)] = self._leads[age[raw], offset[raw]]
        into[len(raw) :] = self._leads_of_slot[age[low], offset[low] // self._geometry.stride(1)]
        into *= weight[np.append(raw, low), None]
        which, ahead = np.nonzero(into > UNSEEN)
        points, block = into[which, ahead], place[np.append(raw, low)[which]] // self._K + ahead
        known = block * self._K < nodes.begin[-1] + self._spans[max(1, nodes.levels[-1])]
        points, block = points[known], block[known]
        slots = self._geometry.slots
        begin = (nodes.begin[:, None] + self._spans[nodes.levels.clip(min=1), None] // slots * np.arange(slots)).ravel()  # of slots
        slot = begin.searchsorted(block * self._K, side="right") - 1
        above = nodes.levels[slot // slots] > 1
        reached = self._evenly(begin, place[high], self._spans[level[high]] // slots, weight[high] * self._leads_of_block[age[high]])
        reached += np.bincount(slot[~above], points[~above], len(begin))
        best, at = np.unique(block[above], return_inverse=True)
        slot = begin.searchsorted(best * self._K, side="right") - 1
        np.maximum.at(reached, slot, reached[slot] + np.bincount(at, points[above], len(best)))
        return reached.reshape(-1, slots).max(1).astype(np.float32)

    def _evenly(self, begin: np.ndarray, place: np.ndarray, stride: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Share, of looks at slots above level 1, of each block below slots that `begin` there now, whether they are expanded or not."""
        given = np.zeros(len(begin) + 1)
        each = weight / stride.astype(np.float64) ** 2
        np.add.at(given, begin.searchsorted(place, side="right") - 1, each)
        np.add.at(given, begin.searchsorted(place + stride), -each)
        return given[:-1].cumsum().clip(min=0)

    def _attention(self, queries: Tensor, end: int) -> Tensor:
        """Attention [L,H,Q,W] of the queries [L,H,Q,E] of the tokens before `end` to the slots."""
        context, slots, (L, H, Q, E) = self._context, self._context.slots, queries.shape
        W, dtype, G = len(context), slots.keys[0].dtype, self._memory.model.config.key_heads
        layers = zip((queries * E**-0.5).reshape(L, G, -1, E).to(dtype), slots.keys, slots.bias, strict=True)
        seen = torch.stack([torch.baddbmm(b[:, None, :W].to(dtype), q, k[:, :W].mT) for q, k, b in layers])
        later = np.empty((Q, W), dtype=bool)
        later[:, context.slot] = context.tiling.start >= np.arange(end - Q + 1, end + 1)[:, None]
        return seen.float().view(L, H, Q, W).masked_fill_(torch.from_numpy(later).to(seen.device), float("-inf")).softmax(-1)
