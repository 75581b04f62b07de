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
from mc.nets.hits import entry_hits
from mc.nets.layered_gists import LayeredEntries, LayeredGistNet, join, tokens_as_entries, turned
from mc.nets.layered_lens import NEWEST, LayeredLensNet, spread
from mc.nets.matches import row_matches
from nanochat.model.attention import visible
from nanochat.model.gpt import Embedded


class LayeredBank(NamedTuple):
    """Bank of B rows of one shape: their tokens [B,T] and embeddings, queries of the tokens [L,B,T,H,E], and entries [L,B,M,·], rotated
    by their positions in the row."""

    tokens: Tensor
    embedded: Embedded
    queries: Tensor
    entries: LayeredEntries
    shape: BankShape


Heads = Iterable[tuple[Tensor, Tensor, Tensor]]  # queries, keys and values of each layer: see `GPT.heads`


def build_layered(tokens: Tensor, embedded: Embedded, heads: Heads, gistnet: LayeredGistNet, shape: BankShape) -> LayeredBank:
    """Builds the bank of rows of `tokens`, which are `embedded`."""
    queries, keys, values = (torch.stack(parts) for parts in zip(*heads, strict=True))
    geometry, B, below = shape.geometry, keys.shape[1], tokens_as_entries(keys, values)
    parts = [below]
    for level, nodes in enumerate(shape.levels[1:], 1):
        children = _as_nodes(below, nodes, geometry.block_size * geometry.size(level - 1))
        start = torch.arange(nodes, device=keys.device) * geometry.span(level)
        gists = gistnet.of_tokens(children, start.repeat(B)) if level == 1 else gistnet.of_gists(children, level)
        below = gists.each(lambda part: part.reshape(part.shape[0], B, -1, *part.shape[3:]))
        parts.append(below._replace(keys=turned(below.keys, start.repeat_interleave(geometry.slots))))
    return LayeredBank(tokens, embedded, queries, join(parts), shape)


def _as_nodes(entries: LayeredEntries, nodes: int, size: int) -> LayeredEntries:
    """The first `nodes` · `size` entries [L,B,·] of each row as [L, B·nodes, size, ·]."""
    return entries.each(lambda part: part[:, :, : nodes * size].reshape(part.shape[0], -1, size, *part.shape[3:]))


def gather(entries: LayeredEntries, index: Tensor) -> LayeredEntries:
    """Entries [L,V·B,W,·] at `index`, int64 [V·B,W], of `entries` [L,B,M,·]; layout v of row b is at v·B + b."""
    L, B, M = entries.keys.shape[:3]
    rows = torch.arange(len(index), device=index.device) % B
    flat = index + rows[:, None] * M
    return entries.each(lambda part: part.flatten(1, 2).index_select(1, flat.flatten()).unflatten(1, index.shape))


def score_layered(lensnet: LayeredLensNet, bank: LayeredBank, levels: Tensor, decision: int, interval: int) -> Tensor:
    """LensNet's scores fp32 [B,F] of blocks with `levels` int64 [B,F], for the `interval` tokens from `decision` on."""
    return lensnet(looks_at(lensnet, bank, levels, decision), interval)


def looks_at(lensnet: LayeredLensNet, bank: LayeredBank, levels: Tensor, decision: int) -> Tensor:
    """Looks fp32 [B,Q,F,K] of the newest queries before token `decision` at the first F blocks, which have `levels` int64 [B,F]."""
    first, blocks, K = max(0, decision - NEWEST), levels.shape[1], bank.shape.geometry.block_size
    far = blocks * K
    matches = lensnet.looks_by_matches(row_matches(bank.tokens, first, decision, far))
    return (matches + _looks_by_hits(lensnet, bank, levels, first, decision)).unflatten(-1, (blocks, K))


def _looks_by_hits(lensnet: LayeredLensNet, bank: LayeredBank, levels: Tensor, first: int, decision: int) -> Tensor:
    """Looks [B,Q,M] of the queries `first … decision−1` at the tokens of the blocks, raw or behind gists, in one softmax."""
    geometry, far, device = bank.shape.geometry, levels.shape[1] * bank.shape.geometry.block_size, levels.device
    place = torch.arange(decision, device=device)
    is_raw = F.pad(levels == 0, (0, 1), value=True)[:, (place // geometry.block_size).clamp(max=levels.shape[1])]  # (B, decision)
    shown = [is_raw[:, None] & visible(place[first:, None], place, 0)]
    parts, spans = [slice(0, decision)], []
    begin = bank.shape.length
    for level, nodes in enumerate(bank.shape.levels[1:], 1):
        count = min(nodes, far // geometry.span(level))  # those that end before the tokens after the blocks
        at = levels[:, :: geometry.span(level) // geometry.block_size][:, :count] == level
        shown.append(at.repeat_interleave(geometry.slots, dim=1)[:, None].expand(-1, decision - first, -1))
        parts.append(slice(begin, begin + count * geometry.slots))
        spans.append(geometry.stride(level))
        begin += nodes * geometry.slots
    entries = bank.entries.each(lambda part: torch.cat([part[:, :, at] for at in parts], dim=2))
    looks = lensnet.looks_by_hits(entry_hits(bank.queries[:, :, first:decision], entries, torch.cat(shown, dim=-1)))
    tokens, *gists = looks.split([at.stop - at.start for at in parts], dim=-1)
    found = tokens[..., :far]
    for part, stride in zip(gists, spans, strict=True):
        below = spread(part, stride)
        found = found + F.pad(below, (0, far - below.shape[-1]))
    return found
