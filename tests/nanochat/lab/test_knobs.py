import math

import pytest

from nanochat import flags
from nanochat.lab.profiles import PROFILES, Profile, argv, check_knobs, load_profile, resolve
from nanochat.lab.templates import TEMPLATES, grid, load_template
from nanochat.model.gpt import GPTConfig
from nanochat.train.schedule import HorizonFlags, TrainPlan, plan_run
from scripts.base_train import BaseTrain

DEFAULTS = flags.flat_values(BaseTrain())
BASE = {
    "depth": 4,
    "aspect_ratio": 32,
    "head_dim": 64,
    "max_seq_len": 256,
    "device_batch_size": 16,
    "total_batch_size": 4096,
    "num_iterations": 300,
}


def plan(changed: dict) -> TrainPlan:
    full = DEFAULTS | changed
    horizon = HorizonFlags(num_iterations=full["num_iterations"], total_batch_size=full["total_batch_size"])
    rows = full["device_batch_size"] * full["max_seq_len"]
    return plan_run(horizon, scaling_parameters=10**6, reference_parameters=10**8, flops_per_token=1e7, rows_multiple=rows)


@pytest.mark.parametrize("factor, rows", [(0.7, 11), (1.4, 22), (2.0, 32), (0.5, 8)])
def test_another_batch_keeps_the_tokens_and_the_rates_follow(factor: float, rows: int) -> None:
    got = resolve(BASE, {"batch_mult": factor}, DEFAULTS)
    assert got["total_batch_size"] == rows * 256 and rows % got["device_batch_size"] == 0 and got["device_batch_size"] >= 8
    before, after = plan(BASE), plan(got)
    assert after.total_tokens == pytest.approx(before.total_tokens, rel=0.005)
    assert after.lr_scale / before.lr_scale == pytest.approx(math.sqrt(rows / 16) * after.horizon_scale / before.horizon_scale)

    def tau(p: TrainPlan) -> float:
        return p.total_batch_size / (p.lr_scale * p.weight_decay_scale * p.total_tokens)

    assert tau(after) == pytest.approx(tau(before))


def test_a_batch_by_the_law_is_left_to_the_law() -> None:
    law = {**BASE, "total_batch_size": -1}
    assert resolve(law, {"batch_mult": 1.4}, DEFAULTS) == {**law, "batch_mult": 1.4}


def test_a_batch_that_micro_batches_cannot_make_is_refused() -> None:
    with pytest.raises(ValueError, match="use a smaller device_batch_size"):
        resolve({**BASE, "total_batch_size": 256, "device_batch_size": 1}, {"batch_mult": 1.2}, DEFAULTS)


@pytest.mark.parametrize(
    "knobs", [{"depth_mult": 0.67}, {"depth_mult": 1.5}, {"head_dim_mult": 0.5}, {"depth_mult": 1.5, "head_dim_mult": 0.5}]
)
@pytest.mark.parametrize("profile", ["cpu-micro", "m1-d12"])
def test_other_shapes_keep_the_parameters_of_the_matrices(profile: str, knobs: dict) -> None:
    base = DEFAULTS | PROFILES[profile].flags
    got = base | resolve(base, knobs, DEFAULTS)

    def matrices(f: dict) -> float:
        config = GPTConfig(f["depth"], f["aspect_ratio"], f["head_dim"], vocab_size=1)
        return 12 * config.depth * config.width**2

    assert (got["depth"], got["head_dim"]) != (base["depth"], base["head_dim"])
    assert 0.5 < matrices(got) / matrices(base) < 1.6  # widths are whole heads


def test_horizons() -> None:
    assert resolve(BASE, {"horizon_mult": 0.8}, DEFAULTS)["num_iterations"] == 240
    by_ratio = {name: value for name, value in BASE.items() if name != "num_iterations"}
    assert resolve(by_ratio, {"horizon_mult": 0.5}, DEFAULTS)["target_param_data_ratio"] == DEFAULTS["target_param_data_ratio"] / 2


def test_plain_knobs_replace_flags_and_make_arguments() -> None:
    assert resolve({**BASE, "lr_mult": 4.0}, {"lr_mult": 1.5, "wd_mult": 0.5}, DEFAULTS) == {**BASE, "lr_mult": 6.0, "wd_mult": 0.5}
    got = resolve(BASE, {"lr_mult": 1.1, "chunked_ce": False}, DEFAULTS)
    assert got == {**BASE, "lr_mult": 1.1, "chunked_ce": False}
    assert argv(got)[-2:] == ["--lr-mult=1.1", "--chunked-ce=0"]
    assert flags.parse(BaseTrain, argv(got)).optim.lr_mult == 1.1


@pytest.mark.parametrize(
    "knobs, says",
    [
        ({"lr_mul": 1.0}, "unknown knob 'lr_mul'; did you mean lr_mult"),
        ({"seed": 3}, "seed is set by the lab"),
        ({"depth": 1.5}, "depth is 1.5; it must be a whole number"),
        ({"depth": True}, "depth is True; it must be a whole number"),
        ({"chunked_ce": 1}, "chunked_ce is 1; it must be true or false"),
        ({"warmdown_shape": 3}, "warmdown_shape is 3; it must be a text"),
        ({"batch_mult": -1.0}, "batch_mult is -1.0; it must be a positive factor"),
    ],
)
def test_wrong_knobs(knobs: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_knobs(knobs, DEFAULTS)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_and_template_fits_base_train(name: str) -> None:
    profile = PROFILES[name]
    check_knobs(profile.flags, DEFAULTS)
    assert Profile.from_record(profile.record()) == profile
    for template in TEMPLATES.values():
        template.check(DEFAULTS)
        for knobs in template.candidates.values():
            if not {"best_of", "all_of"} & knobs.keys():
                flags.parse(BaseTrain, argv(resolve(profile.flags, knobs, DEFAULTS)))


def test_the_local_profile_is_that_of_the_runbook() -> None:
    runbook = """--depth=12 --head-dim=128 --window-pattern=L --max-seq-len=512 --device-batch-size=16 --total-batch-size=16384
        --eval-every=100 --eval-tokens=524288 --sample-every=-1 --num-iterations=1500"""
    assert set(argv(PROFILES["m1-d12"].flags)) == set(runbook.split())


def test_the_grids_of_the_runbook() -> None:
    assert len(TEMPLATES["B"].candidates) == 8 and len(TEMPLATES["D"].candidates) == 9 and len(TEMPLATES["G"].candidates) == 4
    assert [k["batch_mult"] for k in TEMPLATES["C"].candidates.values()] == [0.7, 1.0, 1.4]
    assert list(grid(lr_mult=(0.9, 1.0), chunked_ce=(True,))) == ["lr_mult=0.9,chunked_ce=1", "lr_mult=1,chunked_ce=1"]


def test_a_template_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("budget: time\nfixed: {warmup_steps: 20}\ngrid: {lr_mult: [0.9, 1.2]}\ncandidates: {wide: {aspect_ratio: 96}}\n")
    template = load_template(str(path), DEFAULTS)
    assert (template.name, template.budget, dict(template.fixed)) == ("mine", "time", {"warmup_steps": 20})
    assert template.candidates == {"lr_mult=0.9": {"lr_mult": 0.9}, "lr_mult=1.2": {"lr_mult": 1.2}, "wide": {"aspect_ratio": 96}}


@pytest.mark.parametrize(
    "text, says",
    [
        ("grid: {lr_mul: [1.0]}", "mine.yaml: mine: candidate lr_mul=1: unknown knob 'lr_mul'; did you mean lr_mult"),
        ("girds: {}", "mine.yaml: unknown key 'girds'"),
        ("name: B\ngrid: {lr_mult: [1.1]}", "name is 'B'"),
        ("budget: money\ngrid: {lr_mult: [1.1]}", "budget is 'money'"),
        ("grid: [1, 2]", "grid must be a mapping"),
        ("candidates: {a: 3}", "candidate a must be a mapping"),
        ("fixed: {warmup_steps: 3}", "no candidates"),
    ],
)
def test_what_is_wrong_in_a_template_is_said_in_one_line(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_template(str(path), DEFAULTS)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, says",
    [
        ("about: x\nvocab_size: 300", "has no flags"),
        ("about: x\nvocab_size: 300\nflags: {depth: 2}", "flags lack max_seq_len"),
        ("about: x\nvocab_size: 300\nflag: {}", "no 'flag'"),
    ],
)
def test_what_is_wrong_in_a_profile(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_profile(str(path))


def test_unknown_names() -> None:
    for load, name in ((load_profile, "cpu-mikro"), (lambda n: load_template(n, DEFAULTS), "H")):
        with pytest.raises(ValueError, match=f"is '{name}'; it must be"):
            load(name)
