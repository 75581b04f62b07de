import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.flags import parse
from nanochat.train.schedule import (
    HorizonFlags,
    Leg,
    ScheduleFlags,
    TrainPlan,
    lr_multiplier,
    muon_momentum,
    plan_run,
    weight_decay_multiplier,
)

# Scaling parameters and FLOPs per token of karpathy/nanochat's models (July 2026), vocabulary 32,768.
D12, D20, D24 = 110_100_000, 435_200_000, 729_800_000
FLOPS = {D12: 0.760e9, D20: 2.886e9, D24: 4.775e9}


def plan(scaling: int = D12, rows_multiple: int = 32 * 2048, tokens_before: int = 0, **flags) -> TrainPlan:
    return plan_run(
        HorizonFlags(**flags),
        scaling_parameters=scaling,
        reference_parameters=D12,
        flops_per_token=FLOPS.get(scaling, 6.0 * scaling),
        rows_multiple=rows_multiple,
        tokens_before=tokens_before,
    )


@pytest.mark.parametrize(
    "scaling, batch, steps, tokens", [(D12, 2**19, 2520, 1.32e9), (D20, 2**20, 4980, 5.22e9), (D24, 2**20, 8352, 8.76e9)]
)
def test_the_laws_give_the_published_runs(scaling, batch, steps, tokens):
    p = plan(scaling)
    assert (p.total_batch_size, p.num_iterations) == (batch, pytest.approx(steps, abs=1))
    assert p.total_tokens == batch * p.num_iterations == pytest.approx(tokens, rel=2e-3)
    assert p.lr_scale == pytest.approx((batch / 2**19) ** 0.5)
    assert p.weight_decay_scale == pytest.approx((batch / 2**19) ** 0.5 * D12 / scaling, rel=1e-3)


def test_the_reference_run_has_the_nominal_rates():
    p = plan(D12, total_batch_size=2**19)
    assert p.lr_scale == 1 and 0.28 * p.weight_decay_scale == 0.28


def test_a_short_run_from_trained_weights_decays_them_as_their_training_did():
    long, short = plan(num_iterations=1000, total_batch_size=2**19), plan(num_iterations=10, total_batch_size=2**19)
    further = plan(num_iterations=10, total_batch_size=2**19, tokens_before=long.total_tokens)
    assert further.weight_decay_scale * further.lr_scale == pytest.approx(long.weight_decay_scale * long.lr_scale / 1.01)
    assert short.weight_decay_scale * short.lr_scale == pytest.approx(100 * long.weight_decay_scale * long.lr_scale)
    assert further.lr_scale == pytest.approx(long.lr_scale / 1.01**0.28) and further.total_tokens == short.total_tokens


def test_short_runs_have_higher_rates_and_long_ones_the_nominal_ones():
    """Factors on the rates of √B, at the horizons of the recipes and of the sweeps (2026-12-01, dev/LOG.md)."""

    def factor(tokens: float, batch: int = 8192) -> float:
        p = plan(total_batch_size=batch, num_iterations=round(tokens / batch), rows_multiple=4096)
        assert p.lr_scale == pytest.approx((batch / 2**19) ** 0.5 * p.horizon_scale)
        return p.horizon_scale

    recipes = {(37760, 114688), (18880, 229376), (21400, 524288), (71680, 524288)}
    assert {factor(steps * batch, batch) for steps, batch in recipes} == {1.0}, "to the digit"
    assert [factor(tokens) for tokens in (2.13e6, 8e6, 82e6)] == pytest.approx([6.05, 4.18, 2.18], abs=0.02)
    assert factor(8192) == factor(0.5e6) == pytest.approx(6.16, abs=0.02), "the shortest want no more"


horizons = st.one_of(
    st.builds(lambda n: {"num_iterations": n}, st.integers(1, 10**6)),
    st.builds(lambda f: {"target_flops": f}, st.floats(1e16, 1e21)),
    st.builds(lambda r: {"target_param_data_ratio": r}, st.floats(0.1, 200)),
)


@given(horizons, st.integers(10**6, 10**10), st.integers(0, 2000) | st.floats(0.25, 4))
def test_tau_is_the_same_for_every_batch_and_horizon(horizon, scaling, batch):
    batch = {"batch_mult": batch} if isinstance(batch, float) else {"total_batch_size": batch * 4096 or -1}
    p = plan(scaling, rows_multiple=4096, **horizon, **batch)
    reference = plan(D12, total_batch_size=2**19)

    def tau(p: TrainPlan) -> float:  # B / (η·λ·D), in units of 1 / (η_ref·λ_ref)
        return p.total_batch_size / (p.lr_scale * p.weight_decay_scale * p.total_tokens)

    assert tau(p) == pytest.approx(tau(reference))
    assert p.lr_scale == pytest.approx((p.total_batch_size / 2**19) ** 0.5 * p.horizon_scale) and p.horizon_scale >= 1


def test_the_horizon_is_what_was_asked_for():
    assert plan(num_iterations=77).num_iterations == 77
    assert plan(target_flops=1e18, total_batch_size=2**19).total_tokens * FLOPS[D12] == pytest.approx(1e18, rel=1e-3)
    assert plan(target_param_data_ratio=24.0).total_tokens == pytest.approx(24 * D12, rel=1e-3)
    assert plan(target_flops=1.0).num_iterations == 1  # never none


def test_the_batch_grows_with_the_tokens_of_the_run():
    assert plan(target_param_data_ratio=12 * 2 ** (1 / 0.383)).total_batch_size == 2**20
    assert plan(target_flops=12 * D12 * FLOPS[D12] * 2 ** (2 / 0.383)).total_batch_size == 2**21
    assert plan(batch_mult=0.25).total_batch_size == 2**17
    assert plan(rows_multiple=2**22).total_batch_size == 2**22  # one micro-batch of all processes at least


@pytest.mark.parametrize("mult, micro_batches", [(0.7, 11), (1.0, 16), (1.4, 22), (0.01, 1)])
def test_a_multiplier_of_the_batch_gives_whole_micro_batches(mult, micro_batches):
    assert plan(rows_multiple=2**15, batch_mult=mult).total_batch_size == micro_batches * 2**15


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="total_batch_size 524288 is not a multiple of 114688 tokens"):
        plan(rows_multiple=56 * 2048)
    assert plan(rows_multiple=56 * 2048, total_batch_size=114_688).total_batch_size == 114_688


@pytest.mark.parametrize(
    "flags",
    [{"target_param_data_ratio": 1e308}, {"target_flops": 1e308}, {"num_iterations": 2**62}, {"target_flops": 1e60, "batch_mult": 2}],
)
def test_a_horizon_that_nothing_reaches_is_refused(flags: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"the horizon is (inf|\d.*) tokens; it must be at most 1e\+21"):
        plan(**flags)


totals = st.integers(1, 3000)
schedules = st.builds(
    ScheduleFlags,
    warmup_steps=st.integers(0, 4000),
    warmdown_ratio=st.sampled_from([0.0, 0.2, 0.65, 1.0]) | st.floats(0, 1),
    warmdown_shape=st.sampled_from(["linear", "cosine"]),
    final_lr_frac=st.floats(0, 1),
)


@given(schedules, totals)
def test_rates_stay_in_range_and_do_not_jump(flags, total):
    rates = [lr_multiplier(flags, step, total) for step in range(total)]
    assert all(0 < r <= 1 for r in rates) or (flags.final_lr_frac == 0 and min(rates) >= 0)
    warmdown = round(flags.warmdown_ratio * total)
    rise = 1 / max(1, flags.warmup_steps)
    fall = math.pi / 2 / max(1, warmdown) * (1 - flags.final_lr_frac)  # a cosine's steepest slope
    for a, b in zip(rates, rates[1:], strict=False):
        assert -fall - 1e-9 <= b - a <= rise + 1e-9
    momenta = [muon_momentum(flags, step, total) for step in range(total)]
    assert all(0.85 <= m <= 0.97 for m in momenta)
    for a, b in zip(momenta, momenta[1:], strict=False):
        assert -0.07 / max(1, warmdown) - 1e-9 <= b - a <= 0.12 / 400 + 1e-9


@pytest.mark.parametrize("shape, half, near_end", [("linear", 0.5, 0.01), ("cosine", 0.5, 0.5 - 0.5 * math.cos(0.01 * math.pi))])
def test_the_shape_of_the_warmdown(shape, half, near_end):
    flags = ScheduleFlags(warmup_steps=10, warmdown_ratio=0.5, warmdown_shape=shape, final_lr_frac=0.1)
    at = [lr_multiplier(flags, step, 200) for step in range(200)]
    assert at[0] == 0.1 and at[4] == 0.5 and at[9] == at[10] == at[99] == at[100] == 1.0
    assert at[150] == pytest.approx(0.1 + 0.9 * half)
    assert at[125] == pytest.approx(0.1 + 0.9 * (0.75 if shape == "linear" else 0.5 - 0.5 * math.cos(0.75 * math.pi)))
    assert at[199] == pytest.approx(0.1 + 0.9 * near_end)  # the next step would be at 0.1


def test_warmup_longer_than_the_run_and_no_warmup():
    long = ScheduleFlags(warmup_steps=100, warmdown_ratio=0.5, final_lr_frac=0.0)
    assert [lr_multiplier(long, s, 10) for s in range(10)] == pytest.approx([0.01 * (s + 1) for s in range(10)])
    none = ScheduleFlags(warmup_steps=0, warmdown_ratio=0.0)
    assert [lr_multiplier(none, s, 5) for s in range(5)] == [1.0] * 5


def test_where_warmup_and_warmdown_overlap_the_lower_counts():
    flags = ScheduleFlags(warmup_steps=40, warmdown_ratio=1.0, final_lr_frac=0.0)
    at = [lr_multiplier(flags, s, 80) for s in range(80)]
    assert at[:26] == pytest.approx([(s + 1) / 40 for s in range(26)]) and at[30:] == pytest.approx([(80 - s) / 80 for s in range(30, 80)])


def test_momentum_rises_holds_and_falls():
    flags = ScheduleFlags(warmdown_ratio=0.5)
    at = [muon_momentum(flags, s, 2000) for s in range(2000)]
    assert at[0] == 0.85 and at[200] == pytest.approx(0.91) and at[400] == at[1000] == pytest.approx(0.97)
    assert at[1500] == pytest.approx(0.935) and at[1999] == pytest.approx(0.90, abs=1e-3)


def test_weight_decay_falls_to_nothing():
    at = [weight_decay_multiplier(s, 100) for s in range(101)]
    assert at[0] == 1 and at[50] == pytest.approx(0.5) and at[100] == pytest.approx(0)
    assert at == sorted(at, reverse=True)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("--num-iterations 0", "num_iterations is 0; it must be at least 1, or -1"),
        ("--target-flops 0", "target_flops is 0.0; it must be positive, or -1"),
        ("--target-flops inf", "target_flops is inf; it must be positive, or -1"),
        ("--target-param-data-ratio 0", "target_param_data_ratio is 0.0; it must be positive"),
        ("--batch-mult 0", "batch_mult is 0.0; it must be positive"),
        ("--total-batch-size 0", "total_batch_size is 0; it must be at least 1, or -1"),
        ("--num-iterations 5 --target-flops 1e9", "num_iterations and target_flops both set the horizon; give one"),
        ("--total-batch-size 512 --batch-mult 2", "total_batch_size and batch_mult contradict each other; give one"),
    ],
)
def test_bad_horizons_are_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(HorizonFlags, arguments.split())
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize(
    "bad",
    [{"warmup_steps": -1}, {"warmdown_ratio": 1.1}, {"warmdown_ratio": math.nan}, {"final_lr_frac": -0.1}, {"warmdown_shape": "step"}],
)
def test_bad_schedules_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ScheduleFlags(**bad)


@given(st.integers(1, 500), st.integers(0, 60), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_a_whole_run_is_one_leg_to_the_last_bit(total, warmup, warmdown, shape):
    flags = ScheduleFlags(warmup_steps=warmup, warmdown_ratio=warmdown, warmdown_shape=shape)
    for step in range(0, total, 7):
        assert Leg().fraction(step, total) == step / total
        assert Leg().multipliers(flags, step, total) == {
            "lr": lr_multiplier(flags, step, total),
            "momentum": muon_momentum(flags, step, total),
            "weight_decay": weight_decay_multiplier(step, total),
        }


def test_a_leg_rises_from_where_the_run_had_come_to_and_falls_at_the_new_end():
    flags = ScheduleFlags(warmup_steps=10, warmdown_ratio=0.5, final_lr_frac=0.1)
    leg = Leg().next(flags, 100, 100)
    at = [leg.multipliers(flags, step, 200) for step in range(100, 200)]
    assert (leg.start, leg.progress, leg.lr) == (100, 1.0, pytest.approx(0.1 + 0.9 / 50))
    assert at[0]["lr"] == pytest.approx(leg.lr + (1 - leg.lr) / 10) and [m["lr"] for m in at[9:50]] == [1.0] * 41
    assert at[-1]["lr"] == pytest.approx(0.1 + 0.9 / 50) and all(a["lr"] > b["lr"] for a, b in zip(at[50:], at[51:], strict=False))
    assert at[0]["weight_decay"] == 1 and at[50]["weight_decay"] == pytest.approx(0.5)
    assert at[0]["momentum"] == leg.momentum < at[49]["momentum"]
    assert [leg.fraction(step, 200) for step in (100, 150, 200)] == [1.0] * 3, "what was annealed stays annealed"
    assert "rises from 0.118 to 1 × its peak in 10 steps and falls to 0.1 × over the last 50 steps" in leg.describe(flags, 200)


def test_a_leg_that_begins_in_the_constant_part_extends_it():
    flags = ScheduleFlags(warmup_steps=10, warmdown_ratio=0.5)
    leg = Leg().next(flags, 40, 100)
    assert [leg.multipliers(flags, step, 200)["lr"] for step in range(40, 120)] == [1.0] * 80
    assert leg.fraction(40, 200) == 0.4 and leg.fraction(120, 200) == pytest.approx(0.7) and leg.fraction(200, 200) == 1.0
    assert "the learning rate stays at its peak and falls" in leg.describe(flags, 200)
