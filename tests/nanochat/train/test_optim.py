import math
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.common import UserError
from nanochat.flags import parse
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.muon import MuonExtras
from nanochat.train.optim import MuonAdamW, OptimFlags, ParamGroup, check_coverage, gpt_groups
from nanochat.train.schedule import TrainPlan

NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5  # torch.optim.Muon's default
PLAIN = MuonExtras(NEWTON_SCHULZ, norm_margin=1.0, equilibrate=False, renormalize=False, variance_beta=None, cautious=False)
MATRICES = [(16, 8), (8, 16), (16, 8), (12, 12), (16, 8)]
TABLES = [(20, 6), (7,), (1,), ()]


def parameters(shapes: list[tuple[int, ...]], seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    g = torch.Generator().manual_seed(seed)
    return [(f"p{i}", nn.Parameter(torch.randn(shape, generator=g))) for i, shape in enumerate(shapes)]


def optimizer(seed: int = 0, **options) -> MuonAdamW:
    tables = [("t" + name, p) for name, p in parameters(TABLES, seed + 1)]
    muon = ParamGroup("muon", parameters(MATRICES, seed), lr=0.05, weight_decay=0.3)
    return MuonAdamW([muon, ParamGroup("adamw", tables, lr=0.02, weight_decay=0.1)], **options)


def named(o: MuonAdamW) -> dict[str, nn.Parameter]:
    return {name: p for group in o.groups for name, p in group.named}


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    g = torch.Generator().manual_seed(1000 + seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g)


def train(o: MuonAdamW, steps: range, **rates) -> MuonAdamW:
    for step in steps:
        give_gradients(list(named(o).values()), step)
        o.reduce_gradients()
        o.step(**rates)
    return o


def bits(o: MuonAdamW) -> dict[str, Tensor]:
    """Copies of every parameter and all state, as integers, so that NaN and −0 count."""
    everything = named(o) | {f"state.{k}": v for k, v in o.state_tensors().items()}
    return {k: v.detach().clone().view(torch.int32) for k, v in everything.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_without_extras_it_is_torch_optim_muon():
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    o = MuonAdamW([ParamGroup("muon", ours, lr=0.02, weight_decay=0.1, momentum=0.9, extras=PLAIN)], dtype=torch.bfloat16)
    reference = torch.optim.Muon([p for _, p in theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="original")
    start = [p.detach().clone() for _, p in ours]
    for step in range(6):
        for params in (ours, theirs):
            give_gradients([p for _, p in params], step)
        o.reduce_gradients()
        o.step()
        reference.step()
    for (_, a), (_, b), before in zip(ours, theirs, start, strict=True):
        # Theirs rounds to bf16 before it takes the norm, ours after.
        assert (a - b).norm() < 0.02 * (b - before).norm()


def test_the_rest_is_torch_optim_adamw():
    ours, theirs = parameters(TABLES), parameters(TABLES)
    o = MuonAdamW([ParamGroup("adamw", ours, lr=0.03, weight_decay=0.2, betas=(0.7, 0.9), eps=1e-9)])
    reference = torch.optim.AdamW([p for _, p in theirs], lr=0.03, weight_decay=0.2, betas=(0.7, 0.9), eps=1e-9)
    for step in range(6):
        for params in (ours, theirs):
            give_gradients([p for _, p in params], step)
        o.reduce_gradients()
        o.step()
        reference.step()
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_matrices_of_one_shape_are_stepped_as_if_alone():
    together = train(optimizer(), range(3))
    names = [n for n in named(together) if not n.startswith("t")]
    for name in names:
        alone = dict(parameters(MATRICES))[name]
        o = MuonAdamW([ParamGroup("muon", [(name, alone)], lr=0.05, weight_decay=0.3)])
        for step in range(3):
            everything = optimizer()
            give_gradients(list(named(everything).values()), step)
            alone.grad = named(everything)[name].grad
            o.reduce_gradients()
            o.step()
        torch.testing.assert_close(alone, named(together)[name])


def test_the_schedule_multiplies_the_nominal_rates():
    scheduled = train(optimizer(), range(2), lr=0.5, weight_decay=0.25, momentum=0.8)
    nominal = optimizer()
    for group in nominal.groups:
        group.lr, group.momentum = 0.5 * group.lr, 0.8
    nominal.groups[0].weight_decay *= 0.25  # of the matrices alone
    assert same(bits(scheduled), bits(train(nominal, range(2))))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.0])
def test_a_step_that_is_not_kept_changes_no_bit(bad):
    o = train(optimizer(), range(2))
    before = bits(o)
    give_gradients(list(named(o).values()), 2)
    for p in named(o).values():
        p.grad.view(-1)[0] = bad
    o.reduce_gradients()
    o.step(keep=torch.tensor(0.0))
    assert same(bits(o), before)
    # And the run goes on as if it had not been.
    assert same(bits(train(o, range(2, 4))), bits(train(optimizer(), range(4))))


def test_a_step_that_is_kept_is_a_step():
    assert same(bits(train(optimizer(), range(3), keep=torch.tensor(1.0))), bits(train(optimizer(), range(3))))


def test_saved_state_continues_bit_by_bit(tmp_path: Path):
    half = train(optimizer(), range(3))
    save_file(half.state_tensors(), tmp_path / "state.safetensors")
    resumed = optimizer(seed=7)
    for name, p in named(resumed).items():
        p.data.copy_(named(half)[name].data)
    resumed.load_state_tensors(load_file(tmp_path / "state.safetensors"))
    assert same(bits(train(resumed, range(3, 6))), bits(train(optimizer(), range(6))))


@pytest.mark.parametrize("key", ["p1.momentum", "p0.second_moment", "tp0.exp_avg", "tp3.exp_avg_sq", "tp1.steps"])
@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_state_that_does_not_fit_is_refused(key, damage):
    state = optimizer().state_tensors()
    state[key] = torch.zeros(*state[key].shape, 1)
    if damage == "missing":
        del state[key]
    with pytest.raises(UserError, match=rf"does not fit this model: {key} is .*--resume never") as refused:
        optimizer().load_state_tensors(state)
    assert "\n" not in str(refused.value)


def test_a_missing_part_of_a_table_is_noticed():
    state = optimizer().state_tensors()
    whole = state.pop("tp0.exp_avg")
    o = optimizer()
    o.load_state_tensors(state | {"tp0.exp_avg@10": whole[10:] + 2, "tp0.exp_avg@0": whole[:10] + 1})
    assert o.state_tensors()["tp0.exp_avg"][:, 0].tolist() == [1.0] * 10 + [2.0] * 10
    with pytest.raises(UserError, match=r"tp0.exp_avg is \[10, 6\], not \[20, 6\]"):
        optimizer().load_state_tensors(state | {"tp0.exp_avg@0": whole[:10]})


@pytest.mark.parametrize("limit", [0.0, 1.0, 1e6])
def test_clipping(limit):
    o = optimizer()
    give_gradients(list(named(o).values()), 0)
    gradients = [p.grad.clone() for p in named(o).values()]
    expected = torch.nn.utils.get_total_norm(gradients)
    clipped = optimizer()
    give_gradients(list(named(clipped).values()), 0)
    if limit:
        torch.nn.utils.clip_grad_norm_(named(clipped).values(), limit)
    for each in (o, clipped):
        each.reduce_gradients()
    torch.testing.assert_close(o.clip_gradients(limit), expected)
    o.step()
    clipped.step()
    for a, b in zip(named(o).values(), named(clipped).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_apart_is_clipped_scaled_and_kept_apart():
    weights = [nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(3))]

    def groups(apart):
        named = [(f"p{i}", p) for i, p in enumerate(weights)]
        return [
            ParamGroup("muon", named[:1], 0.1),
            ParamGroup("muon", named[1:2], 0.1, apart=apart),
            ParamGroup("adamw", named[2:], 0.1, apart=apart),
        ]

    def clipped(apart, scale=None):
        for p in weights:
            p.grad = torch.full_like(p, 2.0 if p is weights[0] else 3.0)
        o = MuonAdamW(groups(apart))
        o.reduce_gradients(scale)
        return o, o.clip_gradients(1.0), [unit.grad.flatten()[0].item() for unit in o._units]

    o, norm, gradients = clipped(True)
    rest = (9.0 * 64 + 9.0 * 3) ** 0.5
    assert norm.item() == pytest.approx(16) and o.apart_norm.item() == pytest.approx(rest)
    assert gradients == pytest.approx([2 / 16, 3 / rest, 3 / rest])
    assert o.param_groups == [{"params": weights[:1]}], "the loss scale does not follow them"
    _, norm, gradients = clipped(True, torch.tensor(1e6))
    assert norm.item() == pytest.approx(16) and gradients == pytest.approx([2 / 16, 3e-6, 3e-6])
    assert clipped(False)[1].item() == pytest.approx((16**2 + rest**2) ** 0.5)
    o, _, _ = clipped(True)
    o.step(keep=torch.ones(()), keep_apart=torch.zeros(()))
    assert not torch.equal(weights[0], torch.ones(8, 8)) and all(torch.equal(p, torch.ones_like(p)) for p in weights[1:])


def test_reducing_takes_the_gradients():
    o = optimizer()
    give_gradients(list(named(o).values()), 0)
    o.reduce_gradients()
    assert all(p.grad is None for p in named(o).values())
    with pytest.raises(AssertionError, match="p0 got no gradient"):
        o.reduce_gradients()


@pytest.mark.slow
def test_compiled_is_eager_and_compiled_once():
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled, eager = optimizer(compiled=True), optimizer()
    for step in range(12):  # more than the recompilations that the compiler allows itself
        for o in (compiled, eager):
            train(o, range(step, step + 1), lr=1 - step / 20, momentum=0.8 + step / 100, weight_decay=1 - step / 30)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == len(set(MATRICES))
    for a, b in zip(named(compiled).values(), named(eager).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def small_gpt() -> GPT:
    return GPT(GPTConfig(depth=3, aspect_ratio=16, head_dim=16, kv_heads=1, max_seq_len=16, window_pattern="L", vocab_size=50))


PLAN = TrainPlan(total_batch_size=1 << 17, num_iterations=10, lr_scale=0.5, weight_decay_scale=2.0)


def test_every_parameter_of_a_gpt_is_in_one_group():
    model = small_gpt()
    groups = gpt_groups(model, "", OptimFlags(), PLAN)
    check_coverage(model, groups)
    muon = {name for name, _ in groups[0].named}
    assert groups[0].kind == "muon" and all(name.startswith("blocks.") and p.ndim == 2 for name, p in groups[0].named)
    assert muon == {n for n, _ in model.named_parameters() if n.startswith("blocks.") and "gate" not in n}


def test_the_plan_and_the_multipliers_scale_every_rate():
    model = small_gpt()
    one = TrainPlan(1 << 19, 10, lr_scale=1.0, weight_decay_scale=1.0)
    nominal, planned = (gpt_groups(model, "", OptimFlags(), plan) for plan in (one, PLAN))
    multiplied = gpt_groups(model, "", OptimFlags(lr_mult=3.0, wd_mult=0.5), one)
    for a, b, c in zip(nominal, planned, multiplied, strict=True):
        assert b.lr == pytest.approx(0.5 * a.lr) and c.lr == pytest.approx(3 * a.lr)
        matrices = a.kind == "muon"
        assert b.weight_decay == pytest.approx(a.weight_decay * (2 if matrices else 1))
        assert c.weight_decay == pytest.approx(a.weight_decay * (0.5 if matrices else 1))
    rates = {name: group.lr for group in nominal for name, _ in group.named}
    wide = (48 / 768) ** -0.5
    assert nominal[0].lr == 0.02 and nominal[0].weight_decay == 0.28
    assert rates["lm_head.weight"] == pytest.approx(0.008 * wide) and rates["wte.weight"] == pytest.approx(0.3 * wide)
    assert rates["value_embeds.weight"] == pytest.approx(0.15 * wide) and rates["smear_lambda"] == 0.2
    assert rates["resid_lambdas"] == pytest.approx(0.005) and rates["x0_lambdas"] == 0.5
    rules = {name: (*group.betas, group.weight_decay) for group in nominal[1:] for name, _ in group.named}
    assert rules["lm_head.weight"] == (0.8, 0.96, 0.01) and rules["wte.weight"] == (0.8, 0.995, 0.001)
    assert rules["value_embeds.weight"] == (0.8, 0.995, 0.01) and rules["resid_lambdas"] == (0.8, 0.95, 0.05)
    assert rules["x0_lambdas"] == (0.96, 0.95, 0.0) and rules["smear_lambda"] == rules["backout_lambda"] == (0.8, 0.95, 0.0)


def test_parameters_left_out_or_taken_twice_are_noticed():
    model = small_gpt()
    groups = gpt_groups(model, "", OptimFlags(), PLAN)
    with pytest.raises(AssertionError, match="in no optimizer group: lm_head.weight"):
        check_coverage(model, [g for g in groups if g.named[0][0] != "lm_head.weight"])
    with pytest.raises(AssertionError, match="wte.weight is in two optimizer groups"):
        check_coverage(model, [*groups, ParamGroup("adamw", [("wte.weight", model.wte.weight)], lr=1.0)])
    model.lm_head.weight.requires_grad_(False)
    check_coverage(model, [g for g in groups if g.named[0][0] != "lm_head.weight"])


@pytest.mark.parametrize("name", ["matrix_lr", "weight_decay", "lr_mult", "wd_mult", "grad_clip"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_rates_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be a number from 0"):
        OptimFlags(**{name: value})
    OptimFlags(**{name: 0.0})


def test_a_bad_rate_on_the_command_line_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(OptimFlags, ["--matrix-lr", "-1"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: matrix_lr is -1.0; it must be a number from 0\n"
