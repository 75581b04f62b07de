"""GistNet: compresses the K children of a node into its gist, `S` vectors at the scale of token embeddings.

Shapes: `N` nodes, `C` children vectors (K tokens, or K·S gist slots), `D` width of the model, `S` slots.

Types: `transformer` encodes embeddings bidirectionally; `mean`, the control, has pooling and head only; `context` has pooling and
head over the model's own hidden states. Poolings: `mean` (slot s takes its share of the children), `query` (S learned queries),
`cls` (S learned items that the encoder reads in addition to the children).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor

from mc.nets.encoder import HEAD_DIM, Encoder, init_encoder, init_linear
from nanochat.flags import flag
from nanochat.model.block import MLP, Linear, rotary_at
from nanochat.model.norm import norm

WIDTH_SHARE = 2  # width of the model by that of the encoder: it reads every token and must cost less than the model's layers


@dataclass
class GistConfig:
    """Architecture of GistNet."""

    gistnet_type: Literal["transformer", "mean", "context", "layered"] = flag(
        "layered",
        "source of gists: encoder over embeddings, pooling only, or the model's hidden states; layered = its keys and values in each layer",
    )
    gistnet_layers: Literal[2, 4] = flag(2, "number of encoder layers", unit="layers")
    gistnet_pooling: Literal["mean", "query", "cls"] = flag("mean", "pooling over the children")
    gistnet_head: Literal["mlp", "linear"] = flag("mlp", "head that maps the pooled state to the gist")
    gist_slots: Literal[1, 2, 4] = flag(1, "vectors of a gist; each takes a position", unit="vectors")

    def __post_init__(self) -> None:
        if self.layered and self.gistnet_pooling != "mean":
            raise ValueError(f"invalid gistnet_pooling {self.gistnet_pooling} for gistnet_type layered: expected mean")
        if self.gistnet_pooling == "cls" and self.gistnet_type != "transformer":
            raise ValueError(f"invalid gistnet_pooling cls for gistnet_type {self.gistnet_type}: only transformer has an encoder")

    @property
    def layered(self) -> bool:
        """True if gists are keys and values of every layer, not inputs of the first."""
        return self.gistnet_type == "layered"


class GistNet(nn.Module):
    """Pooling network from children [N,C,D] to gists [N,S,D], computed in `dtype` and returned in that of the children.

    With type `context` it reads the model's hidden states `hidden` [N,C,D] at the children instead. Children of higher levels have
    no hidden states and are read as they are.
    """

    def __init__(self, config: GistConfig, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.slots, self.pooling = config.gist_slots, config.gistnet_pooling
        encoded = config.gistnet_type == "transformer"
        self.width = -(-width // WIDTH_SHARE // HEAD_DIM) * HEAD_DIM if encoded else width
        self.c_in = Linear(width, self.width) if encoded else None
        self.encoder = Encoder(self.width, config.gistnet_layers) if encoded else None
        self.queries = nn.Parameter(torch.empty(self.slots, self.width)) if self.pooling != "mean" else None
        self.c_key = Linear(self.width, self.width) if self.pooling == "query" else None
        self.head = MLP(self.width) if config.gistnet_head == "mlp" else None
        self.c_out = Linear(self.width, width)

    @property
    def reads_hidden(self) -> bool:
        """True if gists of level 1 are made of the model's hidden states."""
        return self.config.gistnet_type == "context"

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> GistNet:
        """Initialises the weights so that a gist is the normalised mean of its children. Returns self."""
        if self.encoder is not None:
            init_linear(self.c_in.weight, generator)
            init_encoder(self.encoder, generator)
        if self.queries is not None:
            nn.init.normal_(self.queries, std=1.0, generator=generator)
        if self.c_key is not None:
            init_linear(self.c_key.weight, generator)
        if self.head is not None:
            init_linear(self.head.c_fc.weight, generator, 0.4)
            nn.init.zeros_(self.head.c_proj.weight)
        nn.init.zeros_(self.c_out.weight)
        return self

    def forward(self, children: Tensor, hidden: Tensor | None = None) -> Tensor:
        """See the class."""
        N, C, D = children.shape
        x = norm(children.to(self.dtype))
        residual = x.view(N, self.slots, C // self.slots, D).mean(2)  # (N, S, D)
        pooled = self._pool(x if hidden is None else norm(hidden.to(self.dtype)))  # (N, S, width)
        if self.head is not None:
            pooled = pooled + self.head(norm(pooled))
        return norm(residual + self.c_out(norm(pooled))).to(children.dtype)

    def _pool(self, x: Tensor) -> Tensor:
        N, C, _ = x.shape
        if self.encoder is not None:
            x = self.c_in(x)
            if self.pooling == "cls":
                x = torch.cat([self.queries.to(x.dtype).expand(N, -1, -1), x], dim=1)
            x = self.encoder(x, rotary_at(torch.arange(x.shape[1], device=x.device), HEAD_DIM, x.dtype))
            if self.pooling == "cls":
                return x[:, : self.slots]
        if self.pooling == "mean":
            return x.view(N, self.slots, C // self.slots, -1).mean(2)
        scores = self.queries.to(x.dtype) @ norm(self.c_key(x)).transpose(1, 2)  # (N, S, C)
        return scores.mul(self.width**-0.5).softmax(-1) @ x
