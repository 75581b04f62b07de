"""No entry may know the token it predicts: shown bit for bit token by token, and by training on tokens that cannot be foreseen."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from mc.layout.compression import Compression, sample_levels
from mc.layout.layout import Geometry, entry_ends, from_levels
from mc.layout.positions import PositionType
from mc.nets.gist_bank import BankShape
from mc.train.controller import MCController
from mc.train.variant_sampler import Request, Sampler, Variants
from nanochat.train.optim import MuonAdamW, OptimFlags
from nanochat.train.schedule import TrainPlan
from tests.helpers.tiny_memory import SEQ_LEN, as_variants, hidden_states, tiny_batch, tiny_gistnet, tiny_gpt, tiny_memory

KINDS = get_args(PositionType)

GISTS = [
    {"gistnet_type": "transformer", "gistnet_pooling": "mean"},
    {"gistnet_type": "transformer", "gistnet_pooling": "cls"},
    {"gistnet_type": "transformer", "gistnet_pooling": "query"},
    {"gistnet_type": "mean", "gistnet_pooling": "mean"},
    {"gistnet_type": "mean", "gistnet_pooling": "query"},
    {"gistnet_type": "context", "gistnet_pooling": "mean"},
    {"gistnet_type": "context", "gistnet_pooling": "query"},
]
# Gists of the levels 1, 2 and 3 side by side, or 1 and 3 where that takes fewer tokens; 1, 2 and 4 slots.
COMPRESSIONS = [
    Compression((2, 1, 1), 10, 1, Geometry(2)),
    Compression((3, 2), 11, 3, Geometry(4, 2)),
    Compression((1, 0, 1), 18, 2, Geometry(4, 2)),
    Compression((2, 1), 11, 3, Geometry(8, 4)),
]
LONG = Compression((1, 1, 1), 75, 2, Geometry(8, 4))


def assert_nothing_is_foreseen(gist: dict, compression: Compression, kind: str, every: int = 1) -> None:
    """For token after token: with it and all after it replaced, what has to predict it, or an earlier one, stays the same bit for
    bit. What stands for it changes. Tries all gists' targets and one in `every` of the other tokens."""
    geometry = compression.geometry
    T = compression.blocks * geometry.block_size + compression.tail
    shape = BankShape(T, T - compression.tail, geometry, len(compression.nodes))
    levels = sample_levels(compression, 3, torch.Generator().manual_seed(1))
    layout = from_levels(levels, T, compression.width, geometry)
    ends, limits = entry_ends(layout, geometry), layout.start + geometry.strides(layout.lod)
    assert {0, *(level for level, n in enumerate(compression.nodes, 1) if n)} == set(layout.lod.unique().tolist())

    model, net = tiny_gpt(max_seq_len=T), tiny_gistnet(**gist, gist_slots=geometry.slots)
    assert model.smear_lambda.abs() > 0.1 and model.value_embeds.weight.std() > 0.01
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(61, (1, T), generator=generator)
    before = hidden_states(model, net, shape, tokens, layout, kind)
    for p in sorted({*range(1, T, every), *ends[layout.lod > 0].tolist()}):
        other = tokens.clone()
        other[:, p:] = (tokens[:, p:] + torch.randint(1, 61, (1, T - p), generator=generator)) % 61
        same = (hidden_states(model, net, shape, other, layout, kind) == before).all(-1)
        assert same[ends <= p].all(), f"token {p} changes what has to predict it, or an earlier one"
        assert not same[limits > p].any(), f"token {p} does not change what stands for it"


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda c: f"{c.geometry.block_size}-{c.geometry.slots}-{c.nodes}")
@pytest.mark.parametrize("gist", GISTS, ids=lambda g: "-".join(g.values()))
@torch.no_grad()
def test_no_entry_depends_on_what_it_predicts_or_on_later_tokens(gist: dict, compression: Compression) -> None:
    kind = KINDS[(GISTS.index(gist) + COMPRESSIONS.index(compression)) % len(KINDS)]
    assert_nothing_is_foreseen(gist, compression, kind)


@pytest.mark.parametrize("gist", GISTS[1::4], ids=lambda g: "-".join(g.values()))
@torch.no_grad()
def test_nor_do_gists_of_512_tokens_in_four_slots(gist: dict) -> None:
    assert_nothing_is_foreseen(gist, LONG, "gaussian", every=97)


def test_the_target_of_a_gist_is_the_token_after_its_span() -> None:
    """Rows of 96 tokens in blocks of 8: a gist of the tokens 0 … 63, one of 64 … 71, and the tokens from 72."""
    row = torch.arange(1000, 1000 + SEQ_LEN + 1)
    targets = row[None, 1:]
    variants = as_variants(tiny_memory(), torch.tensor([[[2] * 8 + [1, 0]]]))
    assert targets.gather(1, variants.predicts).tolist() == [[1064, 1072, *range(1073, 1097)]]
    # Two slots each: all know the whole span.
    variants = as_variants(tiny_memory(gist={"gist_slots": 2}), torch.tensor([[[1, 0] + [1] * 8]]))
    expected = [1008, 1008, *range(1009, 1017)] + [end for end in range(1024, 1088, 8) for _ in range(2)] + [*range(1081, 1097)]
    assert targets.gather(1, variants.predicts).tolist() == [expected]


VOCAB = 16


class PeekingSampler(Sampler):
    """The mistake: gists are asked for the last token of their span instead of the one after it."""

    def sample(self, request: Request) -> Variants:
        return asked_for_the_last(super().sample(request))


def asked_for_the_last(variants: Variants) -> Variants:
    return variants._replace(predicts=variants.predicts - (variants.layout.lod > 0).long())


def trained(gist: dict, steps: int, peeking: bool = False) -> MCController:
    """A memory trained on uniformly random tokens, with variants of all widths in turn; the narrow ones have a gist of level 2."""
    cheap = {"mc_num_random_variants": 1, "mc_training_lod2_probability": 1.0, "lens_loss": {"mc_lens_loss_weight": 0.0}}
    cheap["mc_joint"] = "mean"  # gists predict
    memory = tiny_memory(gist=gist, model={"vocab_size": VOCAB, "depth": 1, "aspect_ratio": 32}, initialised=True, **cheap)
    memory.model.init_weights(torch.Generator().manual_seed(0))
    if peeking:
        memory.sampler = PeekingSampler(memory.plan, 0, pin=False)
    optimizer = MuonAdamW(memory.parameter_groups(OptimFlags(), TrainPlan(SEQ_LEN, steps, 1.0, 1.0)))
    for step in range(steps):
        memory(*tiny_batch(8, seed=step, vocab=VOCAB), step % 8 / 8).total.backward()
        optimizer.reduce_gradients()
        optimizer.step(lr=1 - step / steps)
    return memory


@torch.no_grad()
def advantage_over_chance(memory: MCController, peeking: bool = False, rows: int = 400) -> dict[str, float]:
    """log V less the mean loss, in standard errors, of the predictions made at entries of each level of fresh rows, and in rows as
    they are. Rows are the sample: the slots of a gist predict one token."""
    tokens, targets = tiny_batch(rows, seed=1_000_000, vocab=VOCAB)
    plain = memory.forward_plain(tokens)
    bank = memory.build_bank(plain)
    means: dict[str, list[Tensor]] = {"row": [memory.model.loss(plain.hidden, targets, "none").mean(1)]}
    for nodes in ((5,), (1, 1)):
        compression = Compression(nodes, memory.plan.blocks, memory.plan.tail, memory.config.geometry)
        variants = as_variants(memory, sample_levels(compression, rows, torch.Generator().manual_seed(5))[None])
        variants = asked_for_the_last(variants) if peeking else variants
        hidden = memory.forward_layouts(bank, variants.layout, variants.index).hidden
        losses = memory.model.loss(hidden, targets.gather(1, variants.predicts), "none")
        for level in variants.layout.lod.unique().tolist():
            mine = variants.layout.lod == level
            means.setdefault(str(level), []).append((losses * mine).sum(1) / mine.sum(1))
    samples = {name: torch.stack(each).mean(0) for name, each in means.items()}
    return {name: (math.log(VOCAB) - each.mean().item()) / (each.std() / len(each) ** 0.5).item() for name, each in samples.items()}


@pytest.mark.parametrize("gist", [{"gist_slots": 2}, {"gistnet_type": "context"}], ids=["transformer", "context"])
def test_no_loss_falls_below_the_entropy_of_random_tokens(gist: dict) -> None:
    advantages = advantage_over_chance(trained(gist, 150))
    assert advantages.keys() == {"row", "0", "1", "2"}
    assert max(advantages.values()) < 5, advantages


def test_and_it_does_where_gists_are_asked_for_what_they_hold() -> None:
    advantages = advantage_over_chance(trained({"gist_slots": 2}, 80, peeking=True), peeking=True)
    assert advantages["1"] > 10 and max(advantages["row"], advantages["0"]) < 5, advantages
