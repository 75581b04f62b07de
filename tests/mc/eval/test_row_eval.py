"""The measure itself: what must be zero is, what must be legal is, and losses are those of the definition, worked out one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mc.eval.choose_layout import by_recency, by_score, coarsest
from mc.eval.conditions import LAYOUTS
from mc.eval.paired_stats import compare_rows
from mc.eval.row_eval import (
    choose_levels,
    evaluate_memory,
    horizon_attention,
    horizon_nll,
    lens_levels,
    make_probe,
    measure,
    training_probes,
    window_forward,
)
from mc.layout.layout import check, from_levels
from mc.nets.attention_probe import attention_mass
from mc.train.controller import MCController
from nanochat.model.block import rotate
from nanochat.model.gpt import GPT, norm
from tests.helpers.tiny_memory import SEQ_LEN, hidden_states, tiny_batch, tiny_memory
from tests.helpers.tiny_model import tiny_model
from tests.helpers.two_processes import in_two_processes

H, RECENT = 6, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memory(**config) -> MCController:
    """With 10 blocks of 8 that may be compressed; trained for a budget of 34 entries before the horizon."""
    settings = {"mc_horizon": H, "allocator_recent_tokens": RECENT, "mc_train_wc_length": 40, **config}
    return tiny_memory(**settings).requires_grad_(False)


def nll(model: GPT, hidden: Tensor, target: int) -> float:
    """Loss of one prediction from its hidden state [D]."""
    return -model.logits(hidden).double().log_softmax(-1)[target].item()


GISTS = [
    {"gist": {"gistnet_type": "transformer"}},
    {"gist": {"gistnet_type": "context", "gist_slots": 2}},
    {"gist": {"gistnet_type": "mean"}, "positional_type": "simple"},
]


@pytest.mark.parametrize("config", GISTS)
def test_an_all_raw_memory_loses_nothing_at_all(config: dict) -> None:
    controller, (tokens, targets) = memory(**config), tiny_batch(3)
    probe = make_probe(controller, H, SEQ_LEN - H, RECENT)
    assert not any(probe.compression.nodes) and probe.width == SEQ_LEN - H
    (losses,) = measure(controller, [(tokens, targets)], [probe], ["recency"])
    assert torch.equal(losses["recency"], losses["full"])
    assert torch.equal(losses["window"], losses["full"])
    narrow = horizon_nll(controller.model, window_forward(controller.model, tokens, H, 20), targets, H)
    assert not torch.equal(narrow, losses["full"])
    compared = compare_rows(losses | {"window": narrow})
    assert abs(compared.delta_nll("recency").value) < 1e-5 and compared.recovery("recency").value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("config", GISTS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_losses_are_those_of_the_definition(config: dict, kind: str) -> None:
    controller, (tokens, targets) = memory(**config), tiny_batch(2)
    model, geometry, probe = controller.model, controller.config.geometry, make_probe(controller, H, 34, RECENT)
    (losses,) = measure(controller, [(tokens, targets)], [probe], [kind], seed=3)
    plain = controller.forward_plain(tokens)
    levels = choose_levels(controller, probe, plain, controller.build_bank(plain, probe.plan.shape), kind, generator(3))
    width = (coarsest(probe.compression) if kind == "gists" else probe.compression).width
    layout = from_levels(levels, SEQ_LEN, width, geometry)
    check(layout, geometry, end=SEQ_LEN, max_entries=34 + H + geometry.block_size // 2, recent=RECENT + H)
    hidden = hidden_states(model, controller.gistnet, probe.plan.shape, tokens, layout, controller.config.positional_type)
    t = SEQ_LEN - H
    begin = t - probe.width
    window = model.backbone(model.embed(tokens[:, begin:]), model.rotary(begin, SEQ_LEN))
    full = model.backbone(model.embed(tokens), model.rotary(0, SEQ_LEN))
    for row in range(2):
        for name, states in ((kind, hidden), ("window", window), ("full", full)):
            at = {token: states[row, token - SEQ_LEN] for token in range(t - 1, SEQ_LEN - 1)}  # all raw: counted from the end
            expected = sum(nll(model, at[token], int(tokens[row, token + 1])) for token in at) / H
            assert losses[name][row].item() == pytest.approx(expected, rel=1e-5), name


def test_every_layout_of_a_budget_has_as_many_entries_as_the_window() -> None:
    controller, (tokens, _) = memory(), tiny_batch(2)
    for horizon, width in ((6, 34), (6, 50), (12, 25), (20, 61)):
        probe = make_probe(controller, horizon, width, RECENT)
        plain = controller.forward_plain(tokens)
        bank = controller.build_bank(plain, probe.plan.shape)
        assert abs(probe.width - width) <= 4
        assert window_forward(controller.model, tokens, horizon, probe.width).shape[1] == probe.width + horizon
        for kind in ("random", "recency", "lens", "oracle"):
            levels = choose_levels(controller, probe, plain, bank, kind, generator())
            layout = from_levels(levels, SEQ_LEN, probe.compression.width, controller.config.geometry)
            check(layout, controller.config.geometry, end=SEQ_LEN, recent=RECENT + horizon)
            assert (layout.start < probe.decision).sum(1).tolist() == [probe.width] * 2


@pytest.mark.parametrize("kind", ["transformer", "context", "layered"])
def test_lens_layouts_keep_what_it_scores_highest_and_do_not_know_the_horizon(kind: str) -> None:
    controller, (tokens, _) = memory(gist={"gistnet_type": kind}), tiny_batch(4)
    probe = make_probe(controller, H, 50, RECENT)

    def layouts(tokens: Tensor) -> tuple[Tensor, Tensor]:
        bank = controller.build_bank(controller.forward_plain(tokens), probe.plan.shape)
        seen, now = by_recency(coarsest(probe.compression), len(tokens)), coarsest(probe.compression)
        return lens_levels(controller, probe, bank, len(tokens)), controller.score_blocks(bank, seen, probe.decision, now.width - H)

    levels, scores = layouts(tokens)
    for row in range(4):
        raw, gisted = scores[row, levels[row] == 0], scores[row, levels[row] > 0]
        assert len(raw) and len(gisted) and raw.min() > gisted.max()
    other = tokens.clone()
    other[:, SEQ_LEN - H :] = (tokens[:, SEQ_LEN - H :] + 17) % 61
    assert torch.equal(layouts(other)[1], scores)
    other[:, SEQ_LEN - H - 1] = (tokens[:, SEQ_LEN - H - 1] + 17) % 61
    assert not torch.equal(layouts(other)[1], scores)


@pytest.mark.parametrize("pattern", ["L", "SL"])
def test_attention_mass_is_what_the_layers_pay(pattern: str) -> None:
    model, T = tiny_model(depth=2, max_seq_len=40, window_pattern=pattern, kv_heads=2), 40
    tokens = torch.randint(61, (2, T), generator=generator())
    inputs: list[torch.Tensor] = []
    model.layers(model.embed(tokens), model.rotary(0, T), inputs=inputs)
    (mass,) = attention_mass(model, model.embed(tokens), inputs, torch.arange(30, 38)[None])
    assert torch.allclose(mass.sum(1), torch.ones(2)) and (mass[:, 38:] == 0).all() and (mass[:, :38] > 0).all()
    expected, (x, values), rotary = torch.zeros(2, T), model.embed(tokens), model.rotary(0, T)
    x0 = x
    for layer, block in enumerate(model.blocks):
        inside = norm(model.resid_lambdas[layer] * x + model.x0_lambdas[layer] * x0)
        q, k = (
            rotate(norm(m(inside).view(2, T, -1, 8)) * 1.2, rotary).repeat_interleave(heads, 2)
            for m, heads in ((block.attn.c_q, 1), (block.attn.c_k, model.config.heads // 2))
        )
        for row in range(2):
            for query in range(30, 38):
                first = max(0, query + 1 - (model.windows[layer] or T))
                for head in range(q.shape[2]):
                    scores = k[row, first : query + 1, head] @ q[row, query, head] * 8**-0.5
                    expected[row, first : query + 1] += scores.softmax(0) / (q.shape[2] * 8 * 2)
        scales = torch.stack([model.resid_lambdas[layer], model.x0_lambdas[layer]])
        own = values[:, :, model.value_layers.index(layer)] if layer in model.value_layers else None
        x = block(x, x0, scales, own, rotary, model.windows[layer], "sdpa")
    torch.testing.assert_close(mass, expected, rtol=1e-4, atol=1e-6)


def test_the_oracle_keeps_the_far_block_that_the_horizon_looks_for() -> None:
    """Attention made by hand: tokens from 40 up look for token 7, those below for token 8, and only the horizon's are below."""
    controller = memory(model={"depth": 1, "aspect_ratio": 32})
    model, probe = controller.model, make_probe(controller, H, 26, RECENT)
    model.wte.weight[:, :2] = 0.0
    model.wte.weight[7, 0], model.wte.weight[8, 0] = 6.0, -6.0
    model.wte.weight[:40, 1], model.wte.weight[40:, 1] = -6.0, 6.0
    model.smear_lambda.zero_()
    slowest = model.config.head_dim // 2 - 1  # of the rotations: it hardly turns over a row
    for weight, channel in ((model.blocks[0].attn.c_k.weight, 0), (model.blocks[0].attn.c_q.weight, 1)):
        weight.zero_()
        weight[slowest :: model.config.head_dim, channel] = 1.0
    tokens = torch.randint(40, 61, (5, SEQ_LEN), generator=generator())
    tokens[:, SEQ_LEN - H - 1 : -1] = torch.randint(9, 40, (5, H), generator=generator())
    others, places = [77, 60, 20, 3, 30], [2, 11, 37, 50, 70]
    tokens[torch.arange(5), others], tokens[torch.arange(5), places] = 7, 8
    levels = by_score(probe.compression, horizon_attention(controller, controller.forward_plain(tokens), H, probe.plan.blocks))
    assert probe.compression.nodes[0] == probe.plan.blocks - 1
    assert levels.argmin(1).tolist() == [place // 8 for place in places]


def test_rows_without_a_target_are_left_out_and_random_layouts_are_the_seeds() -> None:
    controller, (tokens, targets) = memory(), tiny_batch(4)
    probe = make_probe(controller, H, 34, RECENT)
    padded = targets.clone()
    padded[2:] = -1
    padded[1, -3] = -1
    (losses,) = measure(controller, [(tokens, padded)], [probe], ["recency", "random"])
    (all_rows,) = measure(controller, [(tokens, targets)], [probe], ["recency", "random"])
    assert {name: len(values) for name, values in losses.items()} == dict.fromkeys(("full", "window", "recency", "random"), 2)
    for name, values in losses.items():
        assert values[0] == all_rows[name][0] and values.isfinite().all() and values[1] != all_rows[name][1]
    (again,) = measure(controller, [(tokens, targets)], [probe], ["recency", "random"], seed=1)
    assert torch.equal(again["recency"], all_rows["recency"]) and not torch.equal(again["random"], all_rows["random"])
    one_row = horizon_nll(controller.model, controller.forward_plain(tokens[1:2]).hidden, padded[1:2], H)
    assert one_row.item() == pytest.approx(losses["full"][1].item(), rel=1e-6)


def test_the_figures_of_training() -> None:
    controller, batch = memory(), tiny_batch(6)
    figures = evaluate_memory(controller, [batch], horizons=(4, 12, 60, 90, 200))
    assert [probe.horizon for probe in training_probes(controller, (4, 12, 60, 90, 200))] == [4, 12]
    names = ("delta_nll", "delta_nll_random", "delta_nll_window", "recovery", "recovery_random")
    assert sorted(figures) == sorted(f"mc/{name}@{h}" for name in names for h in (4, 12))
    probe = training_probes(controller, (12,))[0]
    assert abs(probe.width - 34) <= 4 and probe.plan.recent == RECENT
    (losses,) = measure(controller, [batch], [probe], ["lens"])
    delta, window = ((losses[name] - losses["full"]).double().mean().item() for name in ("lens", "window"))
    assert figures["mc/delta_nll@12"] == pytest.approx(delta, abs=1e-9)
    assert figures["mc/delta_nll_window@12"] == pytest.approx(window, abs=1e-9)
    assert figures["mc/recovery@12"] == pytest.approx((window - delta) / window)
    assert evaluate_memory(controller, [batch], horizons=(90,)) == {}
    assert evaluate_memory(controller, [batch], lambda: True, horizons=(4,)) is None
    empty = (batch[0], torch.full_like(batch[1], -1))
    with pytest.raises(ValueError, match="no row has a target"):
        evaluate_memory(controller, [empty], horizons=(4,))


@pytest.mark.parametrize(
    "horizon, width, recent, knob",
    [(6, 34, 88, "leave no block"), (84, 10, 8, "leave no block"), (6, 9, 8, "mc_train_wc_length"), (6, 95, 8, "mc_train_wc_length")],
)
def test_a_budget_that_cannot_be_is_refused(horizon: int, width: int, recent: int, knob: str) -> None:
    with pytest.raises(ValueError, match=knob):
        make_probe(memory(), horizon, width, recent)


WORKER = """
import torch, torch.distributed as dist
from mc.eval.row_eval import evaluate_memory
from tests.mc.eval.test_row_eval import memory
from tests.helpers.tiny_memory import tiny_batch
dist.init_process_group("gloo")
rank = dist.get_rank()
tokens, targets = tiny_batch(5)
mine = [(tokens[:3], targets[:3])] if rank == 0 else [(tokens[3:4], targets[3:4]), (tokens[4:], targets[4:])]
stop = iter([False, True])
print(evaluate_memory(memory(), mine, horizons=(6,))["mc/delta_nll@6"], evaluate_memory(memory(), mine, lambda: next(stop), horizons=(6,)))
"""


def test_two_processes_get_what_one_gets_and_stop_together(root: Path) -> None:
    outputs = in_two_processes(root, WORKER)
    assert outputs[0] == outputs[1] and outputs[0][1] == "None"  # only the second process was asked to stop
    alone = evaluate_memory(memory(), [tiny_batch(5)], horizons=(6,))
    assert float(outputs[0][0]) == pytest.approx(alone["mc/delta_nll@6"], abs=1e-7)
