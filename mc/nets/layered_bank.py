"""Layered bank of training rows: keys and values of the tokens and of the gists of every level, in every layer.

Its entries are in the order of `mc.nets.gist_bank`, so that any layout of a row is one gather. Shapes: `L` layers, `B` rows, `T`
tokens, `V` layouts of a row, `W` entries, `G` key heads, `E` head size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.nets.gist_bank import BankShape
from mc.nets.hits import entry_hits, token_hits
from mc.nets.layered_gists import LayeredEntries, LayeredGistNet, join, tokens_as_entries, turned
from mc.nets.layered_lens import NEWEST, LayeredLensNet
from nanochat.model.gpt import Embedded


class LayeredBank(NamedTuple):
    """Bank of B rows of one shape: their embeddings, queries of the tokens [L,B,T,H,E], and entries [L,B,M,·], rotated by their
    positions in the row."""

    embedded: Embedded
    queries: Tensor
    entries: LayeredEntries
    shape: BankShape

    @property
    def x(self) -> Tensor:
        """Embeddings of the tokens, [B,T,D]."""
        return self.embedded.x


Heads = Iterable[tuple[Tensor, Tensor, Tensor]]  # queries, keys and values of each layer: see `GPT.heads`


def build_layered(embedded: Embedded, heads: Heads, gistnet: LayeredGistNet, shape: BankShape) -> LayeredBank:
    """Builds the bank of `embedded` rows."""
    queries, keys, values = (torch.stack(parts) for parts in zip(*heads, strict=True))
    geometry, B, below = shape.geometry, keys.shape[1], tokens_as_entries(keys, values)
    parts = [below]
    for level, nodes in enumerate(shape.levels[1:], 1):
        children = _as_nodes(below, nodes, geometry.block_size * geometry.size(level - 1))
        start = torch.arange(nodes, device=keys.device) * geometry.span(level)
        gists = gistnet.of_tokens(children, start.repeat(B)) if level == 1 else gistnet.of_gists(children, level)
        below = gists.each(lambda part: part.reshape(part.shape[0], B, -1, *part.shape[3:]))
        parts.append(below._replace(keys=turned(below.keys, start.repeat_interleave(geometry.slots))))
    return LayeredBank(embedded, queries, join(parts), shape)


def _as_nodes(entries: LayeredEntries, nodes: int, size: int) -> LayeredEntries:
    """The first `nodes` · `size` entries [L,B,·] of each row as [L, B·nodes, size, ·]."""
    return entries.each(lambda part: part[:, :, : nodes * size].reshape(part.shape[0], -1, size, *part.shape[3:]))


def gather(entries: LayeredEntries, index: Tensor) -> LayeredEntries:
    """Entries [L,V·B,W,·] at `index`, int64 [V·B,W], of `entries` [L,B,M,·]; layout v of row b is at v·B + b."""
    L, B, M = entries.keys.shape[:3]
    rows = torch.arange(len(index), device=index.device) % B
    flat = index + rows[:, None] * M
    return entries.each(lambda part: part.flatten(1, 2).index_select(1, flat.flatten()).unflatten(1, index.shape))


def score_hits(lensnet: LayeredLensNet, bank: LayeredBank, levels: Tensor, decision: int, interval: int) -> Tensor:
    """LensNet's scores fp32 [B,F] of blocks with `levels` int64 [B,F], for the `interval` tokens from `decision` on."""
    begin = torch.arange(levels.shape[1], device=levels.device) * bank.shape.geometry.block_size
    return lensnet(hits_at(bank, levels, decision), levels, (decision - begin).expand_as(levels), interval)


def hits_at(bank: LayeredBank, levels: Tensor, decision: int) -> Tensor:
    """Hits fp32 [B,L,H,Q,F,C] of the newest queries before token `decision` on what lies one level below each block's node.

    `levels` int64 [B,F] are those of the nodes. Below a gist of level 1 are the tokens of its block, below a higher one the gists that
    it is made of: those that cover a block are the block's first children here, the others are zero. A token is itself.
    """
    first, F_, K = max(0, decision - NEWEST), levels.shape[1], bank.shape.geometry.block_size
    slots = bank.shape.geometry.slots
    queries, keys = bank.queries[:, :, first:decision], bank.entries.keys[:, :, :decision]
    hits, mass = token_hits(queries, keys, first)
    hits = hits[..., : F_ * K].unflatten(-1, (F_, K))
    begin = bank.shape.length
    for level, nodes in enumerate(bank.shape.levels[1:-1], 1):
        end = begin + nodes * slots
        gists = bank.entries.each(lambda part, at=slice(begin, end): part[:, :, at])
        above = entry_hits(queries, gists, mass).unflatten(-1, (nodes, slots))
        # A gist counts once, at the first of its blocks.
        above = F.pad(above.unsqueeze(-2), (0, K - slots, 0, K ** (level - 1) - 1)).flatten(-3, -2)[..., :F_, :]
        above = F.pad(above, (0, 0, 0, F_ - above.shape[-2]))
        hits = torch.where((levels == level + 1)[:, None, None, None, :, None], above, hits)
        begin = end
    return hits
