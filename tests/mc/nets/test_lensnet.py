"""LensNet: what scores depend on, and what they must not."""

from __future__ import annotations

import pytest
import torch

from mc.layout.layout import Geometry, Layout
from mc.nets.child_attention import ChildKeys
from mc.nets.lensnet import LensConfig, LensNet, block_scores
from tests.helpers.tiny_memory import (
    SEQ_LEN,
    WIDTH,
    as_layout,
    assert_training_moves_everything,
    entries,
    tiny_batch,
    tiny_lensnet,
    tiny_memory,
)

GEOMETRY = Geometry(4, 2)
ROW = entries([2, 2, 2, 2, 1, 0, 1, 0], 34, GEOMETRY)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def below(net: LensNet, layout: Layout, changed: int | None = None, seed: int = 5) -> ChildKeys:
    """Of random vectors, number `changed` of each row another than without: K lie under each gist, one under each raw entry but the
    last K."""
    lod, K, W = layout.lod, net.geometry.block_size, layout.lod.shape[1]
    each = torch.where(lod > 0, K, 1)
    each[:, -K:] = 0
    entry = [torch.arange(W).repeat_interleave(count) for count in each]
    x = normal(len(lod), len(entry[0]), WIDTH, seed=seed)
    if changed is not None:
        x[:, changed] = normal(WIDTH, seed=seed + 1)
    return ChildKeys(net.matching.keys(x), torch.stack(entry))


def logits(scores: torch.Tensor) -> torch.Tensor:
    """What the tanh was taken of."""
    return torch.atanh(scores.double())


@pytest.mark.parametrize("config", [{}, {"lensnet_layers": 4, "lensnet_head": "linear"}, {"lensnet_layers": 8}])
def test_a_score_depends_on_every_entry(config: dict) -> None:
    net, x = tiny_lensnet(GEOMETRY, **config), 0.3 * normal(1, len(ROW), WIDTH)
    layout = as_layout([ROW])
    under = below(net, layout)
    before = logits(net(x, layout, 34, under))
    for changed in range(len(ROW)):
        other = x.clone()
        other[0, changed] = normal(WIDTH, seed=1)
        change = (logits(net(other, layout, 34, under)) - before)[0]
        # Centring alone moves all the others by the same: what counts is that they move apart.
        rest = torch.cat([change[:changed], change[changed + 1 :]])
        assert rest.std() > 1e-3 and change[changed].abs() > 1e-3


def test_a_score_depends_on_what_lies_below_each_entry() -> None:
    net, x, layout = tiny_lensnet(GEOMETRY), 0.3 * normal(1, len(ROW), WIDTH), as_layout([ROW])
    under = below(net, layout)
    before = logits(net(x, layout, 34, under))
    for changed in range(0, under.keys.shape[1], 3):
        change, entry = (logits(net(x, layout, 34, below(net, layout, changed))) - before)[0], int(under.entry[0, changed])
        assert change[entry].abs() > 1e-4 and torch.cat([change[:entry], change[entry + 1 :]]).std() > 1e-6


@pytest.mark.parametrize("what", ["level", "distance", "decision"])
def test_a_score_depends_on_where_the_entry_is_and_on_its_level(what: str) -> None:
    net, x, layout = tiny_lensnet(Geometry(4)), normal(1, 6, WIDTH), as_layout([[(0, t) for t in range(6)]])
    under = below(net, layout)
    before = net(x, layout, 6, under)
    if what == "level":
        layout = layout._replace(lod=torch.tensor([[1, 0, 0, 0, 0, 0]]))
    elif what == "distance":
        layout = layout._replace(start=layout.start + torch.tensor([0, 0, 0, 8, 8, 8]))
    assert (net(x, layout, 20 if what == "decision" else 6, under) - before).std() > 1e-4


def test_scores_are_centred_and_do_not_notice_a_shift() -> None:
    net, x, layout = tiny_lensnet(GEOMETRY), 0.3 * normal(2, len(ROW), WIDTH), as_layout([ROW, ROW])
    under = below(net, layout)
    scores = net(x, layout, 34, under)
    assert scores.dtype == torch.float32 and scores.shape == (2, len(ROW)) and scores.abs().max() < 1
    torch.testing.assert_close(logits(scores).mean(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)
    net.c_score.register_forward_hook(lambda module, inputs, output: output + 50)
    torch.testing.assert_close(net(x, layout, 34, under), scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [{}, {"lensnet_layers": 8, "lensnet_head": "linear"}])
def test_at_the_start_there_is_no_preference(config: dict) -> None:
    net = LensNet(LensConfig(**config), WIDTH, GEOMETRY).init_weights(torch.Generator().manual_seed(0))
    layout = as_layout([ROW, ROW])
    assert not net(normal(2, len(ROW), WIDTH), layout, 34, below(net, layout)).any()


def test_a_block_has_the_mean_score_of_the_node_that_covers_it() -> None:
    scores = normal(1, len(ROW))
    levels = torch.tensor([[2, 2, 2, 2, 1, 0, 1, 0]])
    got = block_scores(scores, as_layout([ROW]), levels, GEOMETRY)[0]
    for block, level in enumerate(levels[0].tolist()):
        span = 4 ** max(level, 1)
        mine = [i for i, (lod, start) in enumerate(ROW) if lod == level and start // span == block * 4 // span and start < 32]
        assert len(mine) == (2 if level else 4)
        torch.testing.assert_close(got[block], scores[0, mine].mean())


def scored(memory, tokens: torch.Tensor, targets: torch.Tensor) -> list[tuple[torch.Tensor, Layout, int]]:
    """(scores, layout, decision point) of LensNet in a training step: of the variants, and of the collapsed context."""
    seen = []
    memory.focus.lensnet.register_forward_hook(lambda module, inputs, output: seen.append((output.detach(), *inputs[1:3])))
    memory.process_batch(tokens, targets, 0.5)
    assert len(seen) == 2 and (seen[1][1].lod[:, : memory.plan.blocks] == 1).all()
    return seen


HORIZON = tiny_memory().plan.horizon
MANY = {"mc_max_lod": 1}  # rows this short have but one variant with a gist of level 2, and LensNet learns from several


@pytest.mark.parametrize("kind", ["transformer", "context"])
def test_the_horizon_does_not_change_the_scores(kind: str) -> None:
    """Two memories of one seed draw the same layouts; the tokens LensNet is judged on differ, and so do their targets."""
    tokens, targets = tiny_batch()
    other, other_targets = tokens.clone(), targets.clone()
    other[:, SEQ_LEN - HORIZON :] = (tokens[:, SEQ_LEN - HORIZON :] + 7) % 61
    other_targets[:, SEQ_LEN - HORIZON - 1 :] = (targets[:, SEQ_LEN - HORIZON - 1 :] + 7) % 61
    before = scored(tiny_memory(gist={"gistnet_type": kind}, **MANY), tokens, targets)
    after = scored(tiny_memory(gist={"gistnet_type": kind}, **MANY), other, other_targets)
    for (mine, layout, decision), (theirs, other_layout, _) in zip(before, after, strict=True):
        assert torch.equal(layout.start, other_layout.start) and torch.equal(layout.lod, other_layout.lod)
        assert decision == SEQ_LEN - HORIZON and (layout.start[:, -1] == decision - 1).all() and (layout.lod[:, -1] == 0).all()
        assert torch.equal(mine, theirs) and mine.std() > 0


@pytest.mark.parametrize("kind", ["transformer", "context"])
def test_the_score_of_an_old_block_changes_with_a_recent_token(kind: str) -> None:
    tokens, targets = tiny_batch()
    other = tokens.clone()
    other[:, SEQ_LEN - HORIZON - 1] = (tokens[:, SEQ_LEN - HORIZON - 1] + 7) % 61  # the last one before the decision point
    before = scored(tiny_memory(gist={"gistnet_type": kind}, **MANY), tokens, targets)
    after = scored(tiny_memory(gist={"gistnet_type": kind}, **MANY), other, targets)
    for (mine, layout, _), (theirs, _, _) in zip(before, after, strict=True):
        gists = layout.lod > 0
        change = logits(theirs) - logits(mine)
        for row in range(len(change)):
            assert change[row, gists[row]].std() > 1e-4  # beyond what centring moves all by


def test_at_the_start_entries_attend_to_what_is_like_them() -> None:
    net = LensNet(LensConfig(), WIDTH, GEOMETRY).init_weights(torch.Generator().manual_seed(0))
    for block in net.encoder.blocks:
        queries, keys, values = block.c_qkv.weight.chunk(3)
        assert torch.equal(queries, keys) and not torch.equal(keys, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_fp32_whatever_it_is_given(dtype: torch.dtype, given: torch.dtype) -> None:
    x, layout = 0.3 * normal(1, len(ROW), WIDTH), as_layout([ROW])
    net, exact = tiny_lensnet(GEOMETRY, dtype=dtype), tiny_lensnet(GEOMETRY)
    scores = net(x.to(given), layout, 34, below(net, layout))
    assert scores.dtype == torch.float32 and net.matching.keys(x.to(given)).dtype == dtype
    torch.testing.assert_close(scores, exact(x, layout, 34, below(exact, layout)), rtol=0, atol=0.15)


@pytest.mark.parametrize("config", [{}, {"lensnet_layers": 4, "lensnet_head": "linear"}, {"lensnet_layers": 8}])
def test_training_moves_every_parameter_and_a_checkpoint_holds_it(config: dict) -> None:
    assert_training_moves_everything(tiny_memory(lens=config, initialised=True, **MANY), "focus.lensnet.")
