"""Content for the trees of sessions: what a tree must hold is cut from a world that is drawn once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mc.layout.layout import Geometry
from mc.session.tree import MegaContextTree, TreeSpec

MANIFEST = {"model": "tiny", "digest": "0f1e", "tokenizer": "bytes", "step": 7}
SMALL = TreeSpec(width=3, geometry=Geometry(4, 2), max_lod=3, dtype=torch.bfloat16, value_width=5, vocab_size=300)
# Levels with stored values, for which a node must stand for 32,768 tokens, and each dtype of gists and tokens.
DEEP = TreeSpec(width=1, geometry=Geometry(2), max_lod=16, dtype=torch.float32, value_width=2, vocab_size=65_536)
WIDE = TreeSpec(width=2, geometry=Geometry(8, 4), max_lod=5, dtype=torch.float16, value_width=3, vocab_size=65_537)
NO_VALUES = TreeSpec(width=2, geometry=Geometry(32), max_lod=3, dtype=torch.bfloat16, value_width=0, vocab_size=100_000)


@dataclass(frozen=True)
class World:
    """All that a tree could hold: `tokens` [T], `gists` and `values` of each level of the spec."""

    spec: TreeSpec
    tokens: Tensor
    gists: list[Tensor]
    values: list[Tensor]

    def piece(self, begin: int, end: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What to append to a tree of `begin` tokens so that it has `end`."""

        def cut(rows: Tensor, level: int) -> Tensor:
            span = self.spec.geometry.span(level)
            return rows[begin // span : end // span]

        gists = [cut(rows, level) for level, rows in enumerate(self.gists, 1)]
        values = [cut(rows, level) for level, rows in zip(self.spec.value_levels, self.values, strict=True)]
        return self.tokens[begin:end], gists, values

    def assert_holds(self, tree: MegaContextTree, length: int) -> None:
        """`tree` is, bit for bit, the first `length` tokens of this."""
        assert tree.length == length
        assert torch.equal(tree.tokens(0, length), self.tokens[:length])
        for level, rows in enumerate(self.gists, 1):
            nodes = length // self.spec.geometry.span(level)
            assert tree.nodes(level) == nodes
            assert torch.equal(tree.gists(level, torch.arange(nodes)).cpu(), rows[:nodes])
        for level, rows in zip(self.spec.value_levels, self.values, strict=True):
            nodes = tree.nodes(level)
            assert torch.equal(tree.values(level, torch.arange(nodes)).cpu(), rows[:nodes])


def world(spec: TreeSpec, length: int, seed: int = 0) -> World:
    """A random world of `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(spec.vocab_size, (length,), generator=generator)
    tokens[0] = spec.vocab_size - 1  # the one that needs most room

    def draw(level: int, width: int) -> Tensor:
        return torch.randn(length // spec.geometry.span(level), spec.geometry.slots, width, generator=generator).to(spec.dtype)

    gists = [draw(level, spec.width) for level in range(1, spec.max_lod + 1)]
    return World(spec, tokens, gists, [draw(level, spec.value_width) for level in spec.value_levels])
