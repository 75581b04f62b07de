"""Layered bank: its entries are what their definition says, none of it knows a later token, and what is read behind it depends on it.

Shapes as in `mc.nets.layered_bank`.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mc.layout.layout import Geometry, Layout, from_levels, widths
from mc.memory_model import MemoryModel
from mc.nets.gist_bank import BankShape, bank_layout
from mc.nets.layered_bank import LayeredBank, build_layered, looks_at, score_layered
from mc.nets.layered_gists import LayeredGistNet
from mc.nets.layered_lens import LEAST, NEWEST
from mc.nets.matches import row_matches
from tests.helpers.layered_memory import VOCAB, layered_memory
from tests.helpers.tiny_memory import randomise

K, BLOCKS, TAIL = 4, 21, 11  # blocks 0 … 15 under a gist of level 3
T = K * BLOCKS + TAIL
SLOTS = pytest.mark.parametrize("slots", [1, 2])
# Levels of the blocks: all raw, all of level 1, and gists of several levels beside raw blocks.
LEVELS = {"raw": [0] * 21, "one": [1] * 21, "two": [2] * 8 + [0, 1, 1, 0] + [2] * 4 + [1, 0, 1, 1, 0], "three": [3] * 16 + [2] * 4 + [1]}


def shape(slots: int) -> BankShape:
    return BankShape(T, K * BLOCKS, Geometry(K, slots), 3)


def some_rows(rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, T), generator=torch.Generator().manual_seed(seed))


def new_net(memory: MemoryModel, slots: int, trained: bool = True) -> LayeredGistNet:
    config = memory.model.config
    net = LayeredGistNet(config.depth, config.key_heads, config.head_dim, Geometry(K, slots)).init_weights()
    if trained:
        randomise(net, 3)
    return net.requires_grad_(False)


def bank_of(memory: MemoryModel, net: LayeredGistNet, tokens: Tensor) -> LayeredBank:
    plain = memory.forward_plain(tokens)
    heads = memory.model.heads(plain.embedded, plain.inputs, plain.rotary)
    return build_layered(tokens, plain.embedded, heads, net, shape(net.geometry.slots))


def layout_of(name: str, slots: int, rows: int) -> Layout:
    levels, geometry = torch.tensor([LEVELS[name]] * rows), Geometry(K, slots)
    return from_levels(levels, T, int(widths(levels, T, geometry)[0]), geometry)


@SLOTS
@torch.no_grad()
def test_entries_are_the_means_of_their_tokens_where_these_are(slots: int) -> None:
    memory = layered_memory(max_seq_len=T)
    bank, geometry = bank_of(memory, new_net(memory, slots, trained=False), some_rows()), Geometry(K, slots)
    lod, start = (part[0].tolist() for part in bank_layout(bank.shape))
    assert set(lod) == {0, 1, 2, 3} and bank.entries.keys.shape[2] == len(lod)
    for entry, (level, first) in enumerate(zip(lod, start, strict=True)):
        stride = geometry.stride(level)
        for part in (bank.entries.keys, bank.entries.values):
            torch.testing.assert_close(part[:, :, entry], part[:, :, first : first + stride].mean(2), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(bank.entries.bias[:, :, entry], torch.full_like(bank.entries.bias[:, :, entry], math.log(stride)))


@SLOTS
@torch.no_grad()
def test_no_entry_of_any_layer_knows_a_later_token(slots: int) -> None:
    """With a token and all after it replaced, keys, values and biases of what ends before stay the same bit for bit, and those of what
    holds it change."""
    memory, tokens = layered_memory(max_seq_len=T), some_rows(1)
    net = new_net(memory, slots)
    before = bank_of(memory, net, tokens)
    lod, start = (part[0] for part in bank_layout(before.shape))
    end = start + Geometry(K, slots).strides(lod)
    for p in range(1, T):
        other = tokens.clone()
        other[:, p:] = (other[:, p:] + 1 + some_rows(1, seed=p)[:, p:] % (VOCAB - 1)) % VOCAB
        after = bank_of(memory, net, other)
        for mine, theirs in zip(before.entries, after.entries, strict=True):
            same = (mine == theirs).transpose(0, 2).flatten(1)  # (M, ·)
            assert same[end <= p].all(), f"token {p} changes an entry that ends before it"
        changed = (before.entries.values != after.entries.values).any(-1).any(-1).all(0)[0]  # in every layer
        assert changed[end > p].all(), f"token {p} does not change what holds it"


@SLOTS
@pytest.mark.parametrize("name", LEVELS)
@torch.no_grad()
def test_no_loss_of_the_tail_depends_on_later_tokens(name: str, slots: int) -> None:
    memory, tokens = layered_memory(max_seq_len=T), some_rows()
    net, layout = new_net(memory, slots), layout_of(name, slots, 2)

    def read(tokens: Tensor) -> tuple[Tensor, Tensor]:
        hidden = memory.forward_layouts(bank_of(memory, net, tokens), layout).hidden
        return hidden, memory.model.loss(hidden[:, :-1], tokens[:, -TAIL + 1 :], "none")

    hidden, losses = read(tokens)
    assert hidden.shape[1] == TAIL
    for p in range(TAIL):
        other = tokens.clone()
        other[:, T - TAIL + p] = (other[:, T - TAIL + p] + 1) % VOCAB
        now, then = read(other)
        assert torch.equal(now[:, :p], hidden[:, :p]) and not (now[:, p:] == hidden[:, p:]).all(-1).any()
        assert torch.equal(then[:, : max(0, p - 1)], losses[:, : max(0, p - 1)])
        assert not (then[:, max(0, p - 1) :] == losses[:, max(0, p - 1) :]).any()
    for p in range(K * BLOCKS):  # and everything depends on all that the gists stand for
        other = tokens.clone()
        other[:, p] = (other[:, p] + 1) % VOCAB
        assert not (read(other)[0] == hidden).all(-1).any()


@SLOTS
@torch.no_grad()
def test_gists_of_another_row_give_another_result(slots: int) -> None:
    """The raw entries stay: rows of one layout, of which only the gists are exchanged."""
    memory = layered_memory(max_seq_len=T)
    bank = bank_of(memory, new_net(memory, slots, trained=False), some_rows())
    shuffled = bank._replace(entries=bank.entries.each(lambda part: torch.cat([part[:, :, :T], part[:, :, T:].flip(1)], dim=2)))
    for name in LEVELS:
        layout = layout_of(name, slots, 2)
        mine, theirs = (memory.forward_layouts(each, layout).hidden for each in (bank, shuffled))
        if name == "raw":
            assert torch.equal(mine, theirs)
        else:
            assert (mine - theirs).abs().amax(-1).min() > 1e-3, name


@SLOTS
@torch.no_grad()
def test_looks_are_squared_attention_in_the_layout_and_matches(slots: int) -> None:
    """What looks at a gist is divided among its tokens, and so are their shares."""
    memory, tokens = layered_memory(max_seq_len=T, trained=True), some_rows()
    lens, geometry, decision, far = memory.lensnet, Geometry(K, slots), K * BLOCKS + 5, K * BLOCKS
    bank = bank_of(memory, new_net(memory, slots), tokens)
    place = {entry: at for at, entry in enumerate(zip(*(part[0].tolist() for part in bank_layout(bank.shape)), strict=True))}
    names, weights = ("two", "three"), lens.heads.exp().view(memory.model.config.depth, -1, 1)
    levels, first = torch.tensor([LEVELS[name] for name in names]), decision - NEWEST
    looks = looks_at(lens, bank, levels, decision)
    matches = lens.looks_by_matches(row_matches(tokens, first, decision, far))
    assert looks.shape == (2, NEWEST, BLOCKS, K) and matches.any()
    for row, name in enumerate(names):
        shown = [(level, start) for level, start in zip(*(part[0].tolist() for part in layout_of(name, slots, 1)), strict=True)]
        keys, bias = (part[:, row, [place[entry] for entry in shown]].movedim(2, 1) for part in bank.entries[::2])
        expected = matches[row]
        for query in range(NEWEST):
            seen = torch.tensor([level > 0 or start <= first + query for level, start in shown])
            q = bank.queries[:, row, first + query]  # (L, H, E)
            keys_, bias_ = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (keys, bias))
            scores = torch.einsum("lhe,lhme->lhm", q, keys_) / math.sqrt(q.shape[-1]) + bias_
            found = (scores.masked_fill(~seen, -math.inf).softmax(-1).square() * weights).sum((0, 1))
            found *= found >= LEAST
            for (level, start), look in zip(shown, found, strict=True):
                stride = geometry.stride(level)
                if start < far:
                    expected[query, start : start + stride] += look / stride**2
        torch.testing.assert_close(looks[row].flatten(1), expected)
    torch.testing.assert_close(score_layered(lens, bank, levels, decision, 8), lens(looks, 8))
