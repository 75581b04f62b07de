"""Edits of a layout: a node becomes its K children, K siblings become their parent.

An edit names a node by `(level, start)`: expanding it needs it to be in the layout, collapsing makes it. Shapes: `B` rows,
`W` entries, `E` edits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mc.layout import Geometry, Layout


def expand(layout: Layout, chosen: Tensor, geometry: Geometry) -> Layout:
    """The layout with every gist node whose first entry is in `chosen` (bool [B,W]) replaced by its K children.

    Raises `ValueError` where `chosen` marks a token, an entry that is not its node's first, or a different number of
    entries to add in different rows.
    """
    lod, start = layout
    first = start % geometry.spans(lod) == 0
    if (chosen & ~(first & (lod > 0))).any():
        row, entry = (chosen & ~(first & (lod > 0))).nonzero()[0].tolist()
        raise ValueError(f"entry {entry} of row {row} (level {int(lod[row, entry])}) is not the first of a gist: nothing to expand")
    inside = _node_marks(layout, chosen, geometry)
    # The first entry of an expanded node becomes all its children's entries; its other slots vanish.
    child = geometry.strides((lod - 1).clamp(min=0))
    counts = torch.where(chosen, geometry.spans(lod) // child, torch.where(inside, 0, 1))
    return _rebuilt(torch.where(chosen, lod - 1, lod), start, counts, child, geometry)


def collapse(layout: Layout, chosen: Tensor, geometry: Geometry) -> Layout:
    """The layout with the K siblings whose first entry is in `chosen` (bool [B,W]) replaced by their parent.

    Raises `ValueError` where the entry does not begin a parent, a sibling is missing (it is expanded itself, or beyond
    the end), or rows would come to different widths.
    """
    lod, start = layout
    W = lod.shape[1]
    parent = geometry.spans(lod + 1)
    size = geometry.block_size * torch.where(lod > 0, geometry.slots, 1)  # entries of the K siblings
    last = torch.arange(W, device=lod.device) + size - 1
    reach = last.clamp(max=W - 1)
    # Inside the parent no entry accounts for more tokens than a sibling's: where `size` of them span it, all are siblings'.
    whole = (last < W) & (start.gather(1, reach) + geometry.strides(lod) == start + parent) & (lod.gather(1, reach) == lod)
    whole &= start % parent == 0
    if (chosen & ~whole).any():
        row, entry = (chosen & ~whole).nonzero()[0].tolist()
        where = f"entry {entry} of row {row} (level {int(lod[row, entry])}, token {int(start[row, entry])})"
        raise ValueError(f"{where} does not begin {geometry.block_size} siblings: nothing to collapse")
    ends = torch.where(chosen, start + parent, 0).cummax(1).values
    inside = start < ends
    counts = torch.where(chosen, geometry.slots, torch.where(inside, 0, 1))
    stride = geometry.strides(lod + 1)
    return _rebuilt(torch.where(chosen, lod + 1, lod), start, counts, stride, geometry)


def _node_marks(layout: Layout, chosen: Tensor, geometry: Geometry) -> Tensor:
    """bool [B,W]: the entries that belong to a node whose first entry is chosen."""
    ends = torch.where(chosen, layout.start + geometry.spans(layout.lod), 0).cummax(1).values
    return layout.start < ends


def _rebuilt(lod: Tensor, start: Tensor, counts: Tensor, stride: Tensor, geometry: Geometry) -> Layout:
    """Each entry repeated `counts` times, `stride` tokens apart."""
    widths = counts.sum(1)
    width = int(widths[0])
    if (widths != width).any():
        raise ValueError(f"the edits leave rows of different widths: {widths.tolist()}")
    B = lod.shape[0]
    flat = counts.flatten()
    source = torch.repeat_interleave(torch.arange(flat.numel(), device=lod.device), flat, output_size=B * width)
    begin = flat.cumsum(0) - flat
    offset = torch.arange(B * width, device=lod.device) - begin[source]
    return Layout(lod.flatten()[source].view(B, width), (start.flatten()[source] + offset * stride.flatten()[source]).view(B, width))
