"""The memory's knobs: defaults, presets, and what is refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from mc.config import FREE, PRESETS, AllocatorConfig, MCConfig, SessionConfig
from mc.nets.gistnet import GistConfig
from mc.row_plan import LENGTHS, RowPlan
from nanochat.flags import flat_values, parse, to_argv
from nanochat.tracking.run_log import wandb_name
from scripts.base_train import BaseTrain

T = 512


def test_the_flags_of_the_contract_are_there() -> None:
    contract = """mc_preset block_size mc_tree mc_max_lod mc_num_random_variants mc_train_wc_length mc_training_lod2_probability
        mc_auto_batch mc_target_tok_per_sec mc_priority_sampling mc_aux_dtype mc_joint mc_gist_kl_weight
        mc_gist_recon_weight gistnet_type gistnet_layers gistnet_pooling gistnet_head gist_slots lensnet_type
        lensnet_layers lensnet_head mc_lens_loss_weight mc_lens_temperature mc_lens_adv_norm_beta
        mc_lens_hard_negative_ratio mc_max_lens_pairs allocator_type
        allocator_soft_max_length allocator_recent_tokens allocator_expand_threshold allocator_collapse_threshold
        allocator_max_replacements allocator_iterations allocator_sample_top_k allocator_sample_temperature
        positional_type mc_infer_refocus_interval mc_log_timers mc_log_lod_ascii mc_enabled"""
    assert set(contract.split()) <= flat_values(MCConfig()).keys()
    assert parse(MCConfig, ["--mc", "--allocator=stochastic_greedy"]) == MCConfig(
        mc_enabled=True, session=SessionConfig(allocator=AllocatorConfig("stochastic_greedy"))
    )


def test_a_preset_changes_defaults_and_a_flag_overrides_it() -> None:
    fast = parse(MCConfig, ["--mc-preset=fast"])
    assert {name: flat_values(fast)[name] for name in PRESETS["fast"]} == PRESETS["fast"]
    rest = {name: value for name, value in flat_values(fast).items() if name not in PRESETS["fast"]}
    assert rest == {name: value for name, value in flat_values(MCConfig(mc_preset="fast")).items() if name in rest}
    more = MCConfig().mc_num_random_variants
    assert parse(MCConfig, ["--mc-num-random-variants", str(more), "--mc_preset", "fast"]).mc_num_random_variants == more
    assert parse(MCConfig, to_argv(fast)) == fast


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_knobs_and_make_a_plan(name: str) -> None:
    config = parse(MCConfig, [f"--mc-preset={name}"])
    assert PRESETS[name].keys() <= flat_values(config).keys()
    RowPlan(config, T)


CONTEXT = GistConfig(gistnet_type="context")
REFUSED = {
    "mc_num_random_variants": 0,
    "mc_max_lod": 0,
    "mc_lens_every": 0,
    "mc_eval_tokens": 0,
    "mc_training_lod2_probability": 1.5,
    "mc_train_wc_length": -1,
    "mc_horizon": -1,
    "mc_rows_every": 0,
    "mc_gist_kl_weight": -0.1,
    "mc_gist_recon_weight": float("inf"),
    "mc_target_tok_per_sec": -1.0,
    "mc_lr_mult": float("nan"),
    "allocator_recent_tokens": 33,
    "mc_aux_dtype": "fp8",
    "positional_type": "cubic",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {REFUSED[name]!r}"):
        MCConfig(gist=CONTEXT, **{name: REFUSED[name]})


SESSION = {"mc_infer_refocus_interval": 0, "mc_session_lod": 0, "mc_tree": "tape"}


@pytest.mark.parametrize("name", SESSION)
def test_a_bad_value_for_sessions_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {SESSION[name]!r}"):
        SessionConfig(**{name: SESSION[name]})


ALLOCATOR = {
    "allocator_type": "lottery",
    "allocator_soft_max_length": -1,
    "allocator_expand_threshold": 1.1,
    "allocator_collapse_threshold": -0.1,
    "allocator_max_replacements": 0,
    "allocator_iterations": 0,
    "allocator_sample_top_k": 0,
    "allocator_sample_temperature": 0.0,
}


@pytest.mark.parametrize("name", ALLOCATOR)
def test_a_bad_value_of_the_allocator_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {ALLOCATOR[name]!r}"):
        AllocatorConfig(**{name: ALLOCATOR[name]})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mc_train_wc_length": 513}, "mc_train_wc_length is 513; a row has only 512"),
        ({"mc_train_wc_length": 64}, "mc_train_wc_length 64 is not more than the 64"),
        ({"allocator_recent_tokens": 480}, "allocator_recent_tokens 480 and mc_horizon 32 leave no block of block_size 32"),
        ({"block_size": 128, "mc_horizon": 300}, "mc_horizon 300"),
        ({"session": SessionConfig(allocator=AllocatorConfig(allocator_soft_max_length=32))}, "allocator_soft_max_length is 32"),
    ],
)
def test_what_does_not_fit_a_row_is_refused(settings: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RowPlan(MCConfig(**settings), T)


def test_widths_fall_from_four_fifths_of_a_row_to_the_wanted_one_in_few_steps() -> None:
    plan = RowPlan(MCConfig(mc_train_wc_length=100), T)
    widths = [plan.width(step / 1000) for step in range(1001)]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == LENGTHS
    assert (widths[0], widths[-1]) == (round(0.8 * T), 100)


def test_the_identity_holds_what_training_goes_by() -> None:
    config = MCConfig(mc_enabled=True, gist=CONTEXT)
    now = config.identity()
    assert now == dataclasses.replace(config, mc_log_timers=False, mc_preset="fast").identity()
    assert now == dataclasses.replace(config, session=SessionConfig("disk", allocator=AllocatorConfig(allocator_iterations=3))).identity()
    for changed in (
        {"block_size": 8},
        {"allocator_recent_tokens": 64},
        {"lens_loss": dataclasses.replace(config.lens_loss, mc_lens_temperature=1.0)},
        {"mc_joint": "mean"},
    ):
        assert now != dataclasses.replace(config, **changed).identity(), changed
    assert flat_values(config).keys() >= FREE and not FREE & now.keys()
    often = SessionConfig(mc_infer_refocus_interval=4)
    assert now == dataclasses.replace(config, session=often).identity()
    layered = MCConfig(mc_enabled=True)
    assert FREE & layered.identity().keys() == {"mc_infer_refocus_interval"}
    assert layered.identity() != dataclasses.replace(layered, session=often).identity(), "its LensNet learns for the interval"


def test_what_the_model_learns_from_the_memory_has_one_spelling() -> None:
    configs = [parse(MCConfig, [f"--mc-joint={value}"]) for value in ("0", "0.0", "0.10", "1e-1", "mean")]
    assert [config.mc_joint for config in configs] == ["0", "0", "0.1", "0.1", "mean"] and MCConfig().mc_joint == "0"
    assert [config.joint_weight for config in configs] == [0, 0, 0.1, 0.1, 1]
    assert [config.joint_mean for config in configs] == [False] * 4 + [True]
    assert [config.apart for config in configs] == [True] * 2 + [False] * 3
    assert not MCConfig(mc_freeze_model=True).apart
    assert [config.compressed_rows(7) for config in configs] == [2, 2, 7, 7, 7] and MCConfig(mc_rows_every=9).compressed_rows(7) == 1
    for wrong in ("-1", "inf", "nan", "much", ""):
        with pytest.raises(ValueError, match=f"invalid mc_joint {wrong}: .*expected 0, a weight such as 0.1, or mean"):
            MCConfig(mc_joint=wrong)
    with pytest.raises(ValueError, match="invalid mc_gist_kl_weight 2.0: mc_joint mean does not use it"):
        MCConfig(mc_joint="mean", mc_gist_kl_weight=2.0)
    with pytest.raises(ValueError, match="invalid mc_gist_recon_weight: layered gists"):
        MCConfig(gist=GistConfig("layered"), mc_gist_recon_weight=0.1)


def test_a_variant_of_layered_gists_costs_its_tail() -> None:
    plan = RowPlan(MCConfig(gist=GistConfig("layered"), mc_joint="mean"), T)
    assert {plan.multiplier(stage) for stage in plan.stages} == {1 + 4 * plan.tail / T}
    half = RowPlan(MCConfig(gist=GistConfig("layered"), mc_num_random_variants=1), T)
    assert half.multiplier(0.0) == 1 + plan.tail / T / 4, "no pair is needed, and one row in four has variants"


# --- the recipe's ---


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that base_train's flags end with."""
    with pytest.raises(SystemExit) as caught:
        parse(BaseTrain, argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--block-size=8"], ["--block-size has no effect without --mc"]),
        (["--mc-preset=fast"], ["--mc-preset has no effect without --mc"]),
        (["--lensnet_layers", "4"], ["--lensnet-layers has no effect without --mc"]),
        (["--model-tag=x-mc"], ["model_tag is 'x-mc'", "--mc"]),
        (["--mc", "--block-size=48"], ["--block-size", "48"]),
        (["--mc", "--mc-joint=often"], ["invalid mc_joint often", "mean"]),
        (["--mc", "--mc-tree=tape"], ["--mc-tree", "tape"]),
        (["--mc", "--gistnet-type=recurrent"], ["--gistnet-type", "recurrent"]),
        (["--mc", "--lensnet-type=none"], ["--lensnet-type"]),
        (["--mc", "--allocator=lottery"], ["--allocator", "lottery"]),
        (["--mc", "--positional-type=cubic"], ["--positional-type"]),
        (["--mc", "--mc-train-wc-length=4096"], ["mc_train_wc_length is 4096", "2048"]),
        (["--mc", "--mc-train-wc-length=100"], ["mc_train_wc_length 100", "allocator_recent_tokens 128"]),
        (["--mc", "--max-seq-len=32", "--eval-tokens=64"], ["block_size 32", "32 tokens"]),
        (["--mc", "--mc-eval-tokens=100"], ["mc_eval_tokens is 100", "max_seq_len 2048"]),
        (["--mc", "--lensnet-layers=4"], ["lensnet_layers 4", "no effect with gistnet_type layered"]),
        (["--mc", "--positional-type=local"], ["positional_type local", "no effect with gistnet_type layered"]),
        (["--mc", "--mc-lens-attention-weight=2"], ["mc_lens_attention_weight 2.0", "no effect with gistnet_type layered"]),
        (["--mc", "--gistnet-pooling=cls"], ["gistnet_pooling cls", "layered"]),
        (["--mc", "--gistnet-pooling=cls", "--gistnet-type=context"], ["gistnet_pooling cls", "context"]),
    ],
)
def test_a_wrong_knob_is_one_line_with_its_name(argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(argv, capsys)
    assert all(part in line for part in parts), line


def test_names_of_runs_with_a_memory_end_in_mc() -> None:
    assert [parse(BaseTrain, argv).tag for argv in ([], ["--mc"], ["--mc", "--model-tag=a"], ["--mc", "--model-tag=a-mc"])] == [
        "d12", "d12-mc", "a-mc", "a-mc"
    ]  # fmt: skip
    assert parse(BaseTrain, ["--mc", "--model-tag=a"]).baseline_tag == "a"
    assert wandb_name("x", True) == wandb_name("x-mc", True) == "x-mc" and wandb_name("x", False) == "x"


def test_a_run_without_a_memory_says_nothing_of_one() -> None:
    assert "memory" not in parse(BaseTrain, []).record() and "memory" in parse(BaseTrain, ["--mc"]).record()
