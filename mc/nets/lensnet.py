"""LensNet: how much each entry of a Working Context deserves more detail, or less.

Shapes: `N` Working Contexts, `W` entries, `F` blocks, `D` width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.layout.layout import Geometry, Layout
from mc.nets.child_attention import HEADS, ChildAttention, ChildKeys
from mc.nets.encoder import HEAD_DIM, Encoder, init_encoder, init_linear
from mc.nets.gist_bank import BankShape, GistBank, look_below
from nanochat.flags import flag
from nanochat.model.block import MLP, Linear
from nanochat.model.norm import norm

FEATURES = 4  # is a gist, level, logarithms of stride and of distance


@dataclass
class LensConfig:
    """LensNet."""

    lensnet_type: Literal["transformer"] = flag("transformer", "what scores entries")
    lensnet_layers: Literal[2, 4, 8] = flag(2, "its layers", unit="layers")
    lensnet_head: Literal["mlp", "linear"] = flag("mlp", "the map from an entry's state to its score")


class LensNet(nn.Module):
    """Entries [N,W,D] up to the decision point, their layout and what lies below them → scores fp32 [N,W] in −1 … 1.

    Positive asks to expand, negative to collapse. Logits are centred over the entries before the tanh: preferences between
    layouts of one width do not notice a shift, so without it the tanh would drift into saturation.
    """

    def __init__(self, config: LensConfig, width: int, geometry: Geometry, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.geometry, self.dtype = config, geometry, dtype
        self.width = -(-width // 2 // HEAD_DIM) * HEAD_DIM
        self.c_in = Linear(width, self.width)
        self.c_features = Linear(FEATURES, self.width)
        self.matching = ChildAttention(width, geometry.block_size, dtype)
        self.c_matching = Linear(HEADS, self.width)
        self.encoder = Encoder(self.width, config.lensnet_layers)
        self.head = MLP(self.width) if config.lensnet_head == "mlp" else None
        self.c_score = Linear(self.width, 1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> LensNet:
        """The last layer starts at zero: no preference. Returns self.

        Queries start equal to keys, so that entries attend to what is like them: to find the block that the recent tokens speak
        of is to match contents, which takes several times as long to learn from unrelated projections.
        """
        init_linear(self.c_in.weight, generator)
        init_linear(self.c_features.weight, generator)
        self.matching.init_weights(generator)
        init_linear(self.c_matching.weight, generator)
        init_encoder(self.encoder, generator)
        for block in self.encoder.blocks:
            queries, keys, _ = block.c_qkv.weight.chunk(3)
            keys.copy_(queries)
        if self.head is not None:
            init_linear(self.head.c_fc.weight, generator, 0.4)
            nn.init.zeros_(self.head.c_proj.weight)
        nn.init.zeros_(self.c_score.weight)
        return self

    @property
    def newest(self) -> int:
        """How many of the last entries, all of them tokens, are looked for below the others: a block's worth."""
        return self.geometry.block_size

    def forward(self, entries: Tensor, layout: Layout, decision: int, below: ChildKeys, multiple: int = 1) -> Tensor:
        """`decision` is the number of tokens so far: the first token that the layout does not cover.

        Computed as for the next multiple of `multiple` entries: preparing products of a new shape takes a CPU longer than the
        products themselves, and a session's Working Context has another width each time.
        """
        stride = self.geometry.strides(layout.lod).float()
        centre = layout.start + (stride - 1) / 2
        distance = (decision - centre).clamp(min=1)
        features = torch.stack([(layout.lod > 0).float(), layout.lod.float(), stride.log2() / 8, distance.log2() / 8], dim=-1)
        W, newest = entries.shape[1], entries[:, -self.newest :]
        padding, seen = -W % multiple, None
        if padding:
            entries, features = F.pad(entries, (0, 0, 0, padding)), F.pad(features, (0, 0, 0, padding))
            seen = (torch.arange(W + padding, device=entries.device) < W)[None]
        found = F.pad(self.matching(newest, below, W), (0, 0, 0, padding))
        x = self.c_in(norm(entries.to(self.dtype))) + self.c_features(features.to(self.dtype)) + self.c_matching(found.to(self.dtype))
        # Without rotations: what is matched across hundreds of tokens is content, and where it stands is in the features.
        x = self.encoder(x, seen=seen)
        if self.head is not None:
            x = norm(x + self.head(x))
        logits = self.c_score(x).squeeze(-1).float()[:, :W]
        return torch.tanh(logits - logits.mean(-1, keepdim=True))


def block_scores(scores: Tensor, layout: Layout, levels: Tensor, geometry: Geometry) -> Tensor:
    """The mean score of the entries of the node that covers each block: scores [N,W], levels [N,F] → [N,F]."""
    K, F = geometry.block_size, levels.shape[1]
    begin = torch.arange(F, device=levels.device) * K
    span = geometry.spans(levels).clamp(min=K)
    first = torch.searchsorted(layout.start.contiguous(), (begin // span * span).contiguous())  # (N, F)
    count = torch.where(levels > 0, geometry.slots, K)
    sums = torch.cat([torch.zeros_like(scores[:, :1]), scores.cumsum(1)], dim=1)
    return (sums.gather(1, first + count) - sums.gather(1, first)) / count


def score_blocks(
    lensnet: LensNet,
    keys: Tensor,
    shape: BankShape,
    entries: Tensor,
    layout: Layout,
    levels: Tensor,
    decision: int,
    horizon: int,
) -> Tensor:
    """LensNet's score of each block, fp32 [N,F], in Working Contexts of rows whose last `horizon` entries come after the decision point.

    These are cut off: LensNet never sees the tokens that its choice is judged on. Entries [N,W,D] are detached: what a gist holds
    is not LensNet's to decide. `keys` are `bank_keys` of the rows, `levels` int64 [N,F] is the layout by blocks.
    """
    W = entries.shape[1] - horizon
    seen = Layout(*(part[:, :W] for part in layout))
    below = look_below(keys, shape, levels, seen, decision, lensnet.newest)
    return block_scores(lensnet(entries[:, :W].detach(), seen, decision, below), seen, levels, lensnet.geometry)


def bank_keys(lensnet: LensNet, tree: GistBank) -> Tensor:
    """The keys of everything in the rows' trees, [B,M,·], once for all the contexts that LensNet scores."""
    return lensnet.matching.keys(tree.x.detach())
