"""Layouts for comparison: raw tokens, the levels of a layout's blocks, the compression of a variant."""

from __future__ import annotations

import torch
from torch import Tensor

from mc.layout.compression import Compression
from mc.layout.layout import Geometry, Layout


def raw(rows: int, length: int) -> Layout:
    """Layout of `length` raw tokens."""
    start = torch.arange(length).expand(rows, length)
    return Layout(torch.zeros_like(start), start)


def to_levels(layout: Layout, blocks: int, geometry: Geometry) -> Tensor:
    """The level that covers each of the first `blocks` blocks, int64 [B, blocks]."""
    begin = torch.arange(blocks) * geometry.block_size
    entry = torch.searchsorted(layout.start.contiguous(), begin.expand(layout.start.shape[0], blocks).contiguous(), right=True) - 1
    return layout.lod.gather(1, entry)


def compression_of(levels: Tensor, tail: int, geometry: Geometry) -> Compression:
    """The compression of which `levels` [F], followed by `tail` raw tokens, are a variant."""
    found = levels.bincount().tolist()
    nodes = tuple(count // geometry.block_size ** (level - 1) for level, count in enumerate(found[1:], 1))
    return Compression(nodes, len(levels), tail, geometry)
