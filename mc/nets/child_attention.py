"""What the newest tokens have in common with what lies under the entries of a Working Context.

A gist is too little to tell whether a name that was just read stands in its block. What expanding the gist would show is not:
each of the newest tokens attends to all that lies one level below the context, and an entry counts by the attention that what
is under it gets. Where a token is common its attention is spread over all, where it is rare it falls on the few places that have
it. The cost is that of K vectors for each gist, whatever the history. Source of the idea, to match token by token and not one
vector by another: late interaction (ColBERT, arXiv 2004.12832).

Shapes: `N` contexts, `W` entries, `C` vectors below them, `Q` newest tokens, `D` width of the model, `H` heads, `E` head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from mc.nets.encoder import HEAD_DIM, init_linear
from nanochat.model.gpt import Linear, norm

HEADS = 4
REACH = 4.0  # tokens: how fast the first head forgets at the start; each further one does so at a quarter of that pace
SHARPNESS = 12.0  # at the start, of attention: what multiplies cosines
NOTHING = 6.0  # at the start, the logit of attending to nothing
TINY = 1e-30  # no sum of weights is less, so that none divides by zero
FAINT = 1e-3  # attention below this is hardly told from none


class ChildKeys(NamedTuple):
    """What expanding every gist of a Working Context by one level would show.

    `keys` [N,C,H·E] are those that `ChildAttention` makes of tokens' embeddings and gists, `entry` int64 [N,C] says which entry each
    lies under: a raw one under itself. What is not to be looked at, such as the newest tokens, has the entry W, which there is not.
    """

    keys: Tensor
    entry: Tensor


class ChildAttention(nn.Module):
    """Newest tokens [N,Q,D] and what lies below W entries → how much of it they find there, fp32 [N,W,H], 0 for nothing."""

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
        """Queries start equal to keys: tokens look for themselves. Returns self."""
        init_linear(self.c_key.weight, generator)
        self.c_query.weight.copy_(self.c_key.weight)
        nn.init.constant_(self.sharpness, SHARPNESS)
        nn.init.constant_(self.nothing, NOTHING)
        heads, newest = self.age.shape
        ages = torch.arange(newest - 1, -1, -1, device=self.age.device)
        self.age.copy_(-ages / (REACH * 4.0 ** torch.arange(heads, device=self.age.device))[:, None])
        return self

    def keys(self, x: Tensor) -> Tensor:
        """Of tokens' embeddings or gists [·,D]: [·,H·E]."""
        return _heads(self.c_key, x.to(self.dtype)).flatten(-2)

    def forward(self, newest: Tensor, below: ChildKeys, entries: int) -> Tensor:
        """`entries` is W."""
        q = _heads(self.c_query, newest.to(self.dtype)).permute(0, 2, 3, 1)  # (N, H, E, Q)
        k = below.keys.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)  # (N, H, C, E)
        seen = (below.entry < entries).float()[:, None, :, None]  # (N, 1, C, 1)
        age = self.age[:, -newest.shape[1] :].float().softmax(-1)[..., None]  # (H, Q, 1); a short history has fewer
        # A softmax over C whose largest logit is known beforehand: few passes over what is by far the largest tensor here.
        sharpness = self.sharpness.float()[:, None, None]
        most = sharpness.abs()
        weights = torch.exp((k @ q).float() * (sharpness / HEAD_DIM) - most)  # (N, H, C, Q)
        total = seen.transpose(2, 3) @ weights + torch.exp(self.nothing.float()[:, None, None] - most)  # (N, H, 1, Q)
        found = weights @ (age / total.clamp(min=TINY).transpose(2, 3)) * seen  # (N, H, C, 1)
        found = found.squeeze(-1).transpose(1, 2)  # (N, C, H)
        mass = found.new_zeros(found.shape[0], entries + 1, HEADS)
        mass = mass.scatter_add(1, below.entry[..., None].expand_as(found), found)[:, :entries]
        return torch.log1p(mass / FAINT)


def _heads(linear: Linear, x: Tensor) -> Tensor:
    """Normalised vectors [·,H,E] of what `linear` makes of x [·,D]."""
    return norm(linear(norm(x)).unflatten(-1, (HEADS, HEAD_DIM)))
