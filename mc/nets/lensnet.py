"""LensNet: scores of the entries of a Working Context, by whether they deserve more detail or less.

Shapes: `N` Working Contexts, `W` entries, `F` blocks, `D` width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mc.layout.layout import Geometry, Layout, from_levels
from mc.nets.child_attention import HEADS, ChildAttention, ChildKeys
from mc.nets.encoder import HEAD_DIM, Encoder, init_encoder, init_linear
from mc.nets.gist_bank import BankShape, GistBank, assemble, bank_child_keys, bank_index
from nanochat.flags import flag
from nanochat.model.block import MLP, Linear
from nanochat.model.norm import norm
from nanochat.profiling.timers import OpenSpan, untimed

FEATURES = 4  # is a gist, level, logarithms of stride and of distance


@dataclass
class LensConfig:
    """Architecture of LensNet."""

    lensnet_type: Literal["transformer"] = flag("transformer", "architecture of LensNet")
    lensnet_layers: Literal[2, 4, 8] = flag(2, "number of LensNet layers", unit="layers")
    lensnet_head: Literal["mlp", "linear"] = flag("mlp", "head that maps an entry's state to its score")


class LensNet(nn.Module):
    """Bidirectional encoder of entries [N,W,D] up to the decision point, their layout and child keys → scores fp32 [N,W] in −1 … 1.

    A positive score asks to expand, a negative one to collapse. Logits are centred over the entries before the tanh: preferences
    between layouts of one width are invariant to a shift, so without centring the tanh would drift into saturation.
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
        """Initialises the last layer with zeros: no preference. Returns self.

        Queries start equal to keys, so that entries attend to similar ones: finding the block that the recent tokens refer to is
        content matching, which takes several times as long to learn from unrelated projections.
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
        """Number of last entries, all of them tokens, that are matched against the children of the others: a block."""
        return self.geometry.block_size

    def forward(self, entries: Tensor, layout: Layout, decision: int, children: ChildKeys, multiple: int = 1) -> Tensor:
        """Scores the entries; `decision` is the number of tokens so far, i.e. the first token that the layout does not cover.

        Entries are padded to a multiple of `multiple`: on a CPU, preparing a matmul of a new shape takes longer than the matmul, and
        the width of a session's Working Context varies.
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
        found = F.pad(self.matching(newest, children, W), (0, 0, 0, padding))
        x = self.c_in(norm(entries.to(self.dtype))) + self.c_features(features.to(self.dtype)) + self.c_matching(found.to(self.dtype))
        # Without rotations: matching across hundreds of tokens goes by content, and positions are in the features.
        x = self.encoder(x, seen=seen)
        if self.head is not None:
            x = norm(x + self.head(x))
        logits = self.c_score(x).squeeze(-1).float()[:, :W]
        return torch.tanh(logits - logits.mean(-1, keepdim=True))


def block_scores(scores: Tensor, layout: Layout, levels: Tensor, geometry: Geometry) -> Tensor:
    """Mean score of the entries of the node that covers each block: scores [N,W], levels [N,F] → [N,F]."""
    K, F = geometry.block_size, levels.shape[1]
    begin = torch.arange(F, device=levels.device) * K
    span = geometry.spans(levels).clamp(min=K)
    first = torch.searchsorted(layout.start.contiguous(), (begin // span * span).contiguous())  # (N, F)
    count = torch.where(levels > 0, geometry.slots, K)
    sums = torch.cat([torch.zeros_like(scores[:, :1]), scores.cumsum(1)], dim=1)
    return (sums.gather(1, first + count) - sums.gather(1, first)) / count


def score_blocks(
    lensnet: LensNet, keys: Tensor, shape: BankShape, entries: Tensor, layout: Layout, levels: Tensor, decision: int
) -> Tensor:
    """LensNet's score of each block, fp32 [N,F], in Working Contexts of entries [N,W,D] that end at token `decision`.

    LensNet must not see later tokens, which its choice is judged on. Entries are detached: gists do not learn from LensNet's loss.
    `keys` are `bank_keys` of the rows; `levels` int64 [N,F] describes the same layouts as `layout`.
    """
    children = bank_child_keys(keys, shape, levels, layout, decision, lensnet.newest)
    return block_scores(lensnet(entries.detach(), layout, decision, children), layout, levels, lensnet.geometry)


def score_levels(
    lensnet: LensNet, bank: GistBank, keys: Tensor, levels: Tensor, decision: int, width: int, spans: OpenSpan = untimed
) -> Tensor:
    """`score_blocks` in the Working Contexts that `levels` int64 [N,F] describe, each of `width` entries up to token `decision`."""
    layout = from_levels(levels, decision, width, lensnet.geometry)
    entries = assemble(bank, bank_index(layout, bank.shape)).x
    with spans("lensnet"):
        return score_blocks(lensnet, keys, bank.shape, entries, layout, levels, decision)


def bank_keys(lensnet: LensNet, bank: GistBank) -> Tensor:
    """Keys [B,M,·] of all that is in the bank, computed once for every context that LensNet scores."""
    return lensnet.matching.keys(bank.x.detach())
