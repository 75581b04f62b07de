"""Late-interaction matching: how much the newest tokens attend to the children of each entry of a Working Context.

A gist holds too little to tell whether a name that was just read occurs in its block, but its children do: each of the newest
tokens attends to everything one level below the Working Context, and an entry counts by the attention that its children get. The
attention of a common token is spread over all, that of a rare one falls on the few places that have it. The cost is K vectors for
each gist, whatever the length of the history. Source of the idea: late interaction (ColBERT, arXiv 2004.12832).

Shapes: `N` contexts, `W` entries, `C` children, `Q` newest tokens, `D` width of the model, `H` heads, `E` head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from mc.nets.encoder import HEAD_DIM, init_linear
from nanochat.model.gpt import Linear, norm

HEADS = 4
REACH = 4.0  # tokens: initial decay length of the first head; each further head's is four times as long
SHARPNESS = 12.0  # initial factor of the cosines
NOTHING = 6.0  # initial logit of attending to nothing
TINY = 1e-30  # lower bound of sums of weights, against division by zero
FAINT = 1e-3  # attention below this counts as nearly none


class ChildKeys(NamedTuple):
    """Keys of the children of a Working Context's entries: what expanding every gist by one level would show.

    `keys` [N,C,H·E] are `ChildAttention.keys`; `entry` int64 [N,C] is the entry that each belongs to, a raw token to itself. Those to
    be ignored, such as the newest tokens, have the entry W.
    """

    keys: Tensor
    entry: Tensor


class ChildAttention(nn.Module):
    """Attention of the newest tokens [N,Q,D] to the children of W entries, fp32 [N,W,H]; 0 = none."""

    def __init__(self, width: int, newest: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.c_query = Linear(width, HEADS * HEAD_DIM)
        self.c_key = Linear(width, HEADS * HEAD_DIM)
        self.sharpness = nn.Parameter(torch.empty(HEADS))
        self.nothing = nn.Parameter(torch.empty(HEADS))
        self.age = nn.Parameter(torch.empty(HEADS, newest))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> ChildAttention:
        """Initialises queries equal to keys: tokens look for themselves. Returns self."""
        init_linear(self.c_key.weight, generator)
        self.c_query.weight.copy_(self.c_key.weight)
        nn.init.constant_(self.sharpness, SHARPNESS)
        nn.init.constant_(self.nothing, NOTHING)
        heads, newest = self.age.shape
        ages = torch.arange(newest - 1, -1, -1, device=self.age.device)
        self.age.copy_(-ages / (REACH * 4.0 ** torch.arange(heads, device=self.age.device))[:, None])
        return self

    def keys(self, x: Tensor) -> Tensor:
        """Keys [·,H·E] of token embeddings or gists [·,D]."""
        return _heads(self.c_key, x.to(self.dtype)).flatten(-2)

    def forward(self, newest: Tensor, children: ChildKeys, entries: int) -> Tensor:
        """See the class; `entries` is W."""
        q = _heads(self.c_query, newest.to(self.dtype)).permute(0, 2, 3, 1)  # (N, H, E, Q)
        k = children.keys.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)  # (N, H, C, E)
        seen = (children.entry < entries).float()[:, None, :, None]  # (N, 1, C, 1)
        age = self.age[:, -newest.shape[1] :].float().softmax(-1)[..., None]  # (H, Q, 1); fewer in a short history
        # A softmax over C with a known bound on the logits: few passes over by far the largest tensor here.
        sharpness = self.sharpness.float()[:, None, None]
        most = sharpness.abs()
        weights = torch.exp((k @ q).float() * (sharpness / HEAD_DIM) - most)  # (N, H, C, Q)
        total = seen.transpose(2, 3) @ weights + torch.exp(self.nothing.float()[:, None, None] - most)  # (N, H, 1, Q)
        found = weights @ (age / total.clamp(min=TINY).transpose(2, 3)) * seen  # (N, H, C, 1)
        found = found.squeeze(-1).transpose(1, 2)  # (N, C, H)
        mass = found.new_zeros(found.shape[0], entries + 1, HEADS)
        mass = mass.scatter_add(1, children.entry[..., None].expand_as(found), found)[:, :entries]
        return torch.log1p(mass / FAINT)


def _heads(linear: Linear, x: Tensor) -> Tensor:
    """Normalised heads [·,H,E] of `linear` applied to x [·,D]."""
    return norm(linear(norm(x)).unflatten(-1, (HEADS, HEAD_DIM)))
