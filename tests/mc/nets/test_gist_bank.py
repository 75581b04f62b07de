"""The tree of a row against one made node by node."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mc.layout.layout import Geometry, Layout
from mc.nets.gist_bank import BankShape, GistBank, assemble, bank_child_keys, bank_index, bank_layout, build
from mc.nets.gistnet import GistNet
from nanochat.model.gpt import Embedded
from tests.helpers.tiny_memory import WIDTH, as_layout, entries, tiny_gistnet

SHAPES = [
    BankShape(23, 20, Geometry(4), 2),
    BankShape(23, 20, Geometry(4, 2), 2),
    BankShape(30, 29, Geometry(3), 3),
    BankShape(9, 8, Geometry(2), 3),
    BankShape(70, 64, Geometry(8, 4), 2),
    BankShape(7, 0, Geometry(4), 2),
]
# Layouts of one width of the rows of each shape, by its block size and slots.
LEVELS = {
    (4, 1): [[2, 2, 2, 2, 0]],
    (4, 2): [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]],
    (3, 1): [[2, 2, 2, 1, 0, 1, 0, 0, 1], [1, 0, 1, 2, 2, 2, 0, 1, 0]],
    (2, 1): [[3, 3, 3, 3]],
    (8, 4): [[1, 0, 1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1]],
}


def rows(shape: BankShape, B: int = 2) -> tuple[Embedded, Tensor]:
    """(embedded tokens of a model with two layers of value embeddings, hidden states)."""
    generator = torch.Generator().manual_seed(3)
    T = shape.length
    values = torch.randn(B, T, 2, 3, 4, generator=generator).requires_grad_()
    x, hidden = (torch.randn(B, T, WIDTH, generator=generator).requires_grad_() for _ in range(2))
    return Embedded(x, values), hidden


def slow_node(row: Embedded, hidden: Tensor | None, net: GistNet, geometry: Geometry, level: int, first: int) -> tuple[Tensor, Tensor]:
    """(vectors [size, D], value embeddings [size, U, G, E]) of the node of `level` that begins at token `first` of one row."""
    if level == 0:
        return row.x[first : first + 1], row.values[first : first + 1]
    K, span = geometry.block_size, geometry.span(level)
    children = [slow_node(row, hidden, net, geometry, level - 1, first + i * span // K) for i in range(K)]
    states = hidden[first : first + K][None] if level == 1 and hidden is not None else None
    gist = net(torch.cat([x for x, _ in children])[None], states)[0]
    stride = geometry.stride(level)
    values = [row.values[first + s * stride : first + (s + 1) * stride].mean(0) for s in range(geometry.slots)]
    return gist, torch.stack(values)


@pytest.mark.parametrize("kind", ["transformer", "context"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_node_is_what_gistnet_makes_of_its_children(shape: BankShape, kind: str) -> None:
    net = tiny_gistnet(gistnet_type=kind, gist_slots=shape.geometry.slots)
    embedded, hidden = rows(shape)
    hidden = hidden if kind == "context" else None
    tree = build(embedded, net, shape, hidden)
    layout = bank_layout(shape)
    assert tree.x.shape[1] == layout.lod.shape[1] == sum(n * shape.geometry.size(level) for level, n in enumerate(shape.levels))
    for b in range(2):
        row = Embedded(embedded.x[b], embedded.values[b])
        for level, nodes in enumerate(shape.levels):
            for n in range(nodes):
                first = n * shape.geometry.span(level)
                x, values = slow_node(row, None if hidden is None else hidden[b], net, shape.geometry, level, first)
                places = ((layout.lod == level) & (layout.start // shape.geometry.span(level) == n))[0]
                torch.testing.assert_close(tree.x[b, places], x, rtol=0, atol=1e-5)
                torch.testing.assert_close(tree.values[b, places], values)
    assert torch.equal(tree.x[:, : shape.length], embedded.x) and torch.equal(tree.values[:, : shape.length], embedded.values)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_index_inverts_the_layout_of_the_bank(shape: BankShape) -> None:
    layout = bank_layout(shape)
    index = bank_index(layout, shape)
    assert torch.equal(index[0], torch.arange(index.shape[1]))
    # In any order, and for several rows.
    order = torch.stack([torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    assert torch.equal(bank_index(Layout(layout.lod[0][order], layout.start[0][order]), shape), order)


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_assembling_picks_each_row_s_own_entries_and_takes_gradients_back(shape: BankShape) -> None:
    net = tiny_gistnet(gist_slots=shape.geometry.slots)
    embedded, _ = rows(shape)
    layouts = LEVELS[shape.geometry.block_size, shape.geometry.slots]
    per_row = [entries(levels, shape.length, shape.geometry) for levels in layouts]
    V, B = len(per_row), 2
    layout = as_layout([per_row[v] for v in range(V) for _ in range(B)])

    tree = build(embedded, net, shape)
    got = assemble(tree, bank_index(layout, shape))
    assert got.x.shape == (V * B, len(per_row[0]), WIDTH) and got.values.shape == (V * B, len(per_row[0]), 2, 3, 4)
    slow_x, slow_values = [], []
    for v in range(V):
        for b in range(B):
            row = Embedded(embedded.x[b], embedded.values[b])
            nodes = [e for e in per_row[v] if e[1] % shape.geometry.span(e[0]) == 0]
            made = [slow_node(row, None, net, shape.geometry, *e) for e in nodes]
            slow_x.append(torch.cat([x for x, _ in made]))
            slow_values.append(torch.cat([values for _, values in made]))
    torch.testing.assert_close(got.x, torch.stack(slow_x), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.values, torch.stack(slow_values))

    wanted = [*embedded, *net.parameters()]
    weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(0)) for t in got]
    fast = torch.autograd.grad(got, wanted, weights)
    slow = torch.autograd.grad([torch.stack(slow_x), torch.stack(slow_values)], wanted, weights)
    for a, b in zip(fast, slow, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_variants_of_a_row_lie_rows_apart() -> None:
    """Variant v of row b is at v·B + b: it must read row b."""
    x = torch.arange(2.0)[:, None, None].expand(2, 3, 4)  # row b holds b
    tree = GistBank(x.contiguous(), x[..., None, None].contiguous(), BankShape(3, 0, Geometry(2), 1))
    got = assemble(tree, torch.zeros(6, 2, dtype=torch.int64))
    assert got.x[:, 0, 0].tolist() == got.values[:, 0, 0, 0, 0].tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_below_an_entry_lies_what_expanding_it_would_show(shape: BankShape) -> None:
    geometry, newest = shape.geometry, 2
    K, S = geometry.block_size, geometry.slots
    tree = build(rows(shape)[0], tiny_gistnet(gist_slots=S), shape)
    levels = torch.tensor(LEVELS[K, S]).repeat_interleave(2, dim=0)  # layout v of row b at v·B + b
    per_row = [entries(row, shape.length, geometry) for row in levels.tolist()]
    below = bank_child_keys(tree.x, shape, levels, as_layout(per_row), shape.length, newest)
    bank = list(zip(*(part[0].tolist() for part in bank_layout(shape)), strict=True))
    for n, row in enumerate(per_row):
        expected: dict[int, list[Tensor]] = {}
        for i, (lod, start) in enumerate(row):
            end, inner = start + geometry.stride(lod), max(0, lod - 1)
            children = [m for m, (level, token) in enumerate(bank) if level == inner and start <= token < min(end, shape.length - newest)]
            expected |= {i: [tree.x[n % 2, m] for m in children]} if children else {}
        seen = below.entry[n] < len(row)
        assert set(below.entry[n, seen].tolist()) == expected.keys()
        for i, children in expected.items():
            torch.testing.assert_close(below.keys[n, below.entry[n] == i], torch.stack(children))
