"""Appends tokens to a session's tree and computes the gists of the blocks they complete, batched by level.

Shapes: `n` new tokens, `N` nodes, `K` block size, `S` slots, `D` width, `U`, `G`, `E` value embeddings as in `nanochat.model.gpt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.nets.gistnet import GistNet
from mc.session.tree import MegaContextTree
from nanochat.model.gpt import GPT, Embedded, norm

PIECE = 1 << 15  # tokens embedded at once: bounds the device memory that a long document takes


def append_tokens(tree: MegaContextTree, model: GPT, gistnet: GistNet, tokens: Tensor, states: Tensor | None = None) -> None:
    """Appends `tokens`, int64 [n], with the gists and stored values of all nodes that they complete.

    `states` [·,D], for gists of type `context`, are the hidden states from the first token of the incomplete block on.
    """
    spec, device, K = tree.spec, model.wte.weight.device, tree.spec.geometry.block_size
    begin = tree.length // K * K  # of the incomplete block
    new = (tree.length + len(tokens)) // K - tree.length // K
    first = torch.zeros(0, spec.geometry.slots, spec.width, dtype=spec.dtype, device=device)
    if new:
        whole = torch.cat([tree.tokens(begin, tree.length), tokens.cpu()])[: new * K]
        x = embed(model, tree, begin, whole).x  # (new · K, D)
        hidden = None if states is None else states[: new * K].to(device).view(new, K, -1)
        first = gistnet(x.view(new, K, -1), hidden).to(spec.dtype)
    gists = all_levels(tree, first, lambda children, _: gistnet(children.to(model.dtype)))
    tree.append(tokens.cpu(), gists, _stored_values(tree, model, tokens.cpu()))


def all_levels(tree: MegaContextTree, first: Tensor, merge: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """Gists of all levels that new nodes of level 1, with the gists `first` [n,S,D], complete.

    `merge` makes the gists [N,S,D] of a level from those of the nodes' children, [N,K·S,D].
    """
    K, levels = tree.spec.geometry.block_size, [first]
    for level in range(2, tree.spec.max_lod + 1):
        before, nodes = tree.nodes(level - 1), tree.nodes(level)
        new = (before + len(levels[-1])) // K - nodes
        if not new:
            levels.append(first[:0])
            continue
        old = tree.gists(level - 1, torch.arange(nodes * K, before)).to(first.device)
        children = torch.cat([old, levels[-1]])[: new * K].unflatten(0, (new, K)).flatten(1, 2)
        levels.append(merge(children, level).to(tree.spec.dtype))
    return levels


def embed(model: GPT, tree: MegaContextTree, begin: int, tokens: Tensor) -> Embedded:
    """Embeddings x [n,D] and values [n,U,G,E] of `tokens`, int64 [n], whose place in the history begins at `begin`."""
    device = model.wte.weight.device
    previous = None
    if begin:
        previous = norm(model.wte(tree.tokens(begin - 1, begin).to(device)).to(model.dtype))
    embedded = model.embed(tokens.to(device)[None], previous)
    return Embedded(embedded.x[0], embedded.values[0])


def value_means(model: GPT, tokens: Tensor, slots: int) -> Tensor:
    """Mean value embeddings of each slot of nodes that stand for `tokens`, int64 [N, span]: [N,S,U·G·E]."""
    weight = model.value_embeds.weight
    bags = tokens.to(weight.device).view(len(tokens) * slots, -1)
    return F.embedding_bag(bags, weight, mode="mean").to(model.dtype).view(len(tokens), slots, -1)


def _stored_values(tree: MegaContextTree, model: GPT, tokens: Tensor) -> Sequence[Tensor]:
    """Values argument of `tree.append`: mean value embeddings of the new nodes of `spec.value_levels`."""
    spec, length = tree.spec, tree.length + len(tokens)
    stored: list[Tensor] = []
    for level in range(spec.stored_values_from, spec.max_lod + 1):
        span, nodes = spec.geometry.span(level), tree.nodes(level)
        new = length // span - nodes
        if not new:
            stored.append(torch.zeros(0, spec.geometry.slots, spec.value_width, dtype=spec.dtype))
        elif level == spec.stored_values_from:
            begin = nodes * span
            whole = torch.cat([tree.tokens(begin, tree.length), tokens])[: new * span]
            stored.append(value_means(model, whole.view(new, span), spec.geometry.slots).to(spec.dtype))
        else:
            K, S = spec.geometry.block_size, spec.geometry.slots
            below = tree.values(level - 1, torch.arange(nodes * K, tree.nodes(level - 1))).to(stored[-1].device)
            children = torch.cat([below, stored[-1]])[: new * K]
            stored.append(children.reshape(new, S, K, -1).mean(2))
    return stored
