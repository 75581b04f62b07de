"""base_train --mc: the baseline's data and schedules, its own folders, resumed bit for bit, and stopped by any error of the memory."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.tiny_run import QUIET, SHAPE, TAG, Home, new_home
from bench.warm_start import WarmStart
from mc.config import MCConfig
from mc.train.controller import MCController, new_controller
from nanochat.checkpoint.store import CheckpointStore
from nanochat.flags import parse
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.report.compose import generate
from nanochat.runtime.device import Precision, Runtime
from scripts.base_train import BaseTrain, build_model
from tests.helpers.byte_tokenizer import ByteTokenizer
from tests.helpers.two_processes import start_two

STEPS = 50
FLAGS = (
    "--max-seq-len=128",
    "--total-batch-size=512",
    f"--num-iterations={STEPS}",
    "--warmup-steps=5",
    "--save-every=20",
    "--keep-checkpoints=-1",
    "--eval-every=25",
    "--eval-tokens=1024",
)
# Gists of layer 0, whose objective holds most state: draws, and running figures of advantages. For layered ones see
# `test_base_train_joint`.
MEMORY = (
    "--mc",
    "--gistnet-type=transformer",
    "--device-batch-size=1",
    "--block-size=8",
    "--mc-num-random-variants=2",
    "--mc-lens-every=2",
    "--mc-gist-recon-weight=0.1",
)


def with_memory(home: Home) -> Home:
    """The run beside the baseline of `home`."""
    return dataclasses.replace(home, tag=f"{TAG}-mc")


def without_timers(home: Home) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    return [{key: value for key, value in record.items() if not key.endswith("_ms")} for record in home.figures()]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> tuple[Home, Home]:
    """A baseline, and the same with a memory in the same folder. Not to be changed."""
    home = new_home(tmp_path_factory.mktemp("both") / "base", corpus, warm)
    for flags in (FLAGS, (*FLAGS, *MEMORY)):
        process = home.train(*flags)
        assert process.code == 0, process.stderr
    return home, with_memory(home)


def test_data_and_schedules_are_the_baselines(both: tuple[Home, Home]) -> None:
    plain, memory = (home.metrics() for home in both)
    trained = [[r for r in records if "train/loss" in r] for records in (plain, memory)]
    assert len(trained[0]) == len(trained[1]) == STEPS
    for a, b in zip(*trained, strict=True):
        for key in ("step", "total_tokens", "train/data_hash", "train/lrm", "train/tokens_per_step", "train/epoch"):
            assert a[key] == b[key]
    assert len({r["train/data_hash"] for r in trained[1]}) == STEPS
    assert [r["total_tokens"] for r in plain if "val/bpb" in r] == [r["total_tokens"] for r in memory if "val/bpb" in r]
    assert both[0].saved_steps() == both[1].saved_steps() == [20, 40, 50]
    # Micro-batches are the only thing that differs.
    assert {(r["train/grad_accum_steps"], r["mc/grad_accum_steps"]) for r in trained[1]} == {(4, 4)}
    assert {r["train/grad_accum_steps"] for r in trained[0]} == {1}


def test_the_first_loss_of_plain_rows_is_the_baselines(both: tuple[Home, Home]) -> None:
    plain, memory = both[0].metrics()[0], both[1].metrics()[0]
    assert memory["train/loss_lod0"] == pytest.approx(plain["train/loss"], rel=1e-6)


def test_the_baseline_knows_nothing_of_a_memory(both: tuple[Home, Home]) -> None:
    home, _ = both
    assert not [key for record in home.metrics() for key in record if key.startswith("mc/") or "lod" in key]
    meta = json.loads((home.checkpoints / "step_0000050" / "meta.json").read_text())
    assert "mc_config" not in meta and "memory" not in meta["recipe"]
    assert not [key for key in meta["identity"] if key.startswith(("mc_", "gist", "lens", "block_size"))]


def test_every_figure_of_the_memory_is_a_number_and_the_spans_add_up(both: tuple[Home, Home]) -> None:
    records = both[1].metrics()
    assert not [key for record in records for key in record if key.endswith("_nonfinite")]
    last = [record for record in records if "train/loss" in record][-1]
    wanted = """mc/token_loss mc/adv_delta_mean mc/adv_delta_p95 mc/adv_delta_std mc/lod_loss/0 mc/lod_delta/0 mc/gist_kl
        mc/variants_total mc/lens_loss mc/preference_corr_mean mc/horizon_tokens mc/effective_step mc/build_ms
        mc/variant_ms mc/variant_pack_ms mc/positional_ms mc/lens_ms mc/other_ms mc/time_controller_ms"""
    seen = {key for record in records for key in record}
    assert set(wanted.split()) <= seen
    assert {"mc/delta_nll@32", "mc/recovery@32", "mc/delta_nll_random@32"} <= seen
    spans = {key.removeprefix("train/time/"): value for key, value in last.items() if key.startswith("train/time/")}
    assert spans.keys() >= {"data", "tree_build", "variant_sampling", "lens", "forward", "backward", "optimizer", "other"}
    assert sum(spans.values()) == pytest.approx(last["train/dt"] * 1e3, rel=0.02) and min(spans.values()) >= 0


def test_the_checkpoint_holds_the_memory_and_gives_it_back(both: tuple[Home, Home]) -> None:
    folder = both[1].checkpoints / f"step_{STEPS:07d}"
    meta, saved = json.loads((folder / "meta.json").read_text()), load_file(folder / "model.safetensors")
    assert meta["mc_config"]["block_size"] == 8 and meta["mc_config"]["gist"]["gistnet_type"] == "transformer"
    model = GPT(GPTConfig(**meta["model_config"]))
    controller = MCController(
        model, parse(MCConfig, [flag for flag in MEMORY if not flag.startswith("--device")]), model.config.max_seq_len
    ).init_weights()
    fresh = {name: parameter.clone() for name, parameter in controller.named_parameters()}
    assert dict(controller.named_parameters()).keys() <= saved.keys()
    controller.load_state_dict(saved)
    assert controller.draw == STEPS * 4
    for name, parameter in controller.named_parameters():
        assert torch.equal(parameter, saved[name])
        if name.startswith(("gistnet", "focus.lensnet")):
            assert not torch.equal(parameter, fresh[name]), f"{name} was not trained"
    optimized = load_file(folder / "optimizer.safetensors").keys()
    for name, parameter in controller.named_parameters():
        assert not parameter.requires_grad or any(key.startswith(f"{name}.") for key in optimized), f"{name} is not optimized"


def test_a_killed_run_is_continued_exactly(both: tuple[Home, Home], home: Home) -> None:
    memory = with_memory(home)
    process = home.start(*FLAGS, *MEMORY)
    process.until(lambda: memory.logged(27))
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert memory.metrics()[-1]["step"] < STEPS
    assert home.train(*FLAGS, *MEMORY).code == 0
    assert without_timers(memory) == without_timers(both[1])
    assert memory.tensors(STEPS) == both[1].tensors(STEPS)


def test_a_checkpoint_with_another_memory_is_refused(both: tuple[Home, Home]) -> None:
    home, memory = both
    before = home.contents()
    for flags, name in (("--gistnet-type=mean",), "gistnet_type"), (("--mc-train-wc-length=40",), "mc_train_wc_length"):
        process = home.train(*FLAGS, *MEMORY, *flags)
        assert process.code == 1 and process.stderr.count("\n") == 1
        assert f"the checkpoint in {memory.checkpoints} has {name}" in process.stderr
    assert home.contents() == before


def test_what_does_not_change_the_training_may_change(both: tuple[Home, Home], tmp_path: Path) -> None:
    again = both[1].copy(tmp_path / "again")
    shutil.rmtree(again.checkpoints / f"step_{STEPS:07d}")
    process = again.train(*FLAGS, *MEMORY, "--mc-log-timers=0", "--mc-tree=disk", "--allocator-iterations=2", "--mc_log_lod_ascii")
    assert process.code == 0
    assert again.tensors(STEPS) == both[1].tensors(STEPS)
    (said,) = [line for line in process.stdout.splitlines() if "--mc-tree" in line]
    assert "training rows live in RAM" in said
    assert "decision point" in process.stdout and "oracle" in process.stdout, "no picture of layouts"
    assert "mc/lens_ms" not in again.metrics()[-1]


def test_the_report_shows_both(both: tuple[Home, Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(both[0].base))
    generate(tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "## Base training\n" in text and "## Base training with a MegaContext\n" in text
    assert f"MegaContext with baseline: same tokens, batch and learning rate at all {STEPS} steps that both logged" in text
    assert "| delta nll | recovery |" in text or "delta nll" in text
    for name in ("base_training", "base_training_mc", "base_training_mc_memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") and f"({name}.png)" in text


# --- errors ---


LAYERED = tuple(flag for flag in MEMORY if not flag.startswith(("--gistnet-type", "--mc-gist-recon")))
PLACES = [
    "mc.nets.gistnet:GistNet.forward",
    "mc.nets.lensnet:LensNet.forward",
    "mc.train.variant_sampler:Sampler.sample",
    "mc.memory_model:assemble",
    "mc.memory_model:build",
    "mc.train.lens_objective:preference_loss",
    "scripts.shared.evaluations:evaluate_memory",
]
LAYERED_PLACES = [
    "mc.nets.layered_gists:LayeredGistNet.of_tokens",
    "mc.nets.layered_lens:LayeredLensNet.forward",
    "mc.memory_model:build_layered",
    "mc.memory_model:gather",
]


@pytest.mark.parametrize(("place", "flags"), [*((p, MEMORY) for p in PLACES), *((p, LAYERED) for p in LAYERED_PLACES)])
def test_an_error_in_the_memory_stops_the_run(home: Home, place: str, flags: tuple[str, ...]) -> None:
    calls = "0" if place.endswith("evaluate_memory") else "20"
    argv = [*SHAPE, *QUIET, f"--dataset={home.corpus}", *FLAGS, *flags, "--num-iterations=30", "--save-every=-1"]
    surroundings = {"NANOCHAT_BASE_DIR": str(home.base), "NANOCHAT_DTYPE": "fp32"}
    process = home.warm.start("tests.helpers.broken_memory", [place, calls, *argv], surroundings)
    assert process.wait() == 1
    assert f"RuntimeError: injected into {place}" in process.stderr
    memory = with_memory(home)
    last = memory.metrics()[-1]["step"] if memory.metrics() else 0
    assert last <= (25 if place.endswith("evaluate_memory") else 20), "training went on"
    assert memory.saved_steps() == [] and not home.checkpoints.exists() and not home.metrics_file.exists()


def test_a_wrong_knob_is_refused_before_anything_is_written(corpus: Path, warm: WarmStart, tmp_path: Path) -> None:
    process = Home(tmp_path / "base", corpus, warm).train(*FLAGS, *MEMORY, "--mc-train-wc-length=129")
    assert (process.code, process.stdout) == (2, "")
    assert process.stderr == "error: mc_train_wc_length is 129; a row has only 128 tokens\n"
    assert not (tmp_path / "base").exists()


def test_a_step_that_does_not_divide_is_refused_as_without_a_memory(home: Home) -> None:
    for flags in ((), MEMORY):
        process = home.train(*FLAGS, *flags, "--device-batch-size=4", "--total-batch-size=640")
        assert process.code == 2 and "total_batch_size 640 is not a multiple" in process.stderr
    assert not (home.base / "base_checkpoints").exists()


def test_auto_batch_off_keeps_the_micro_batch(home: Home) -> None:
    process = home.train(*FLAGS, *MEMORY, "--num-iterations=2", "--eval-every=-1", "--mc-auto-batch=0", "--device-batch-size=2")
    assert process.code == 0, process.stderr
    assert with_memory(home).metrics()[-1]["mc/grad_accum_steps"] == 2


def test_a_memory_can_start_from_a_trained_model(home: Home) -> None:
    assert home.train(*FLAGS).code == 0
    last = [record["train/loss"] for record in home.metrics() if "train/loss" in record][-1]
    short = (*FLAGS, *MEMORY, "--num-iterations=2", "--eval-every=-1")
    assert home.train(*short, f"--init-from={home.tag}").code == 0
    first = with_memory(home).metrics()[0]["train/loss_lod0"]
    assert abs(first - last) < 0.5 < 5.0 - last  # where the model was, and not at the beginning
    stores = [CheckpointStore(home.base / "base_checkpoints" / tag) for tag in (home.tag, f"{home.tag}-mc")]
    metas = [store.load_newest().meta for store in stores]
    assert [meta["tokens_before"] for meta in metas] == [0, home.metrics()[-1]["total_tokens"]]  # the weight decay goes by them
    other = home.train(*short)
    assert other.code == 1 and f"has init_from {home.tag}, this run none; use another --model-tag" in other.stderr
    frozen = ("--mc-freeze-model", "--resume=never")
    assert home.train(*short, f"--init-from={home.tag}", *frozen).code == 0
    given, kept = (store.load_newest().tensors["model"] for store in stores)
    assert all(torch.equal(kept[name], weight) for name, weight in given.items()) and not torch.equal(
        kept["gistnet.c_out.weight"], torch.zeros_like(kept["gistnet.c_out.weight"])
    )
    for wrong, said in (
        (f"--init-from={home.tag}-mc", "the folder that this run writes to"),
        ("--init-from=nobody", "no model nobody in"),
        ("--mc-freeze-model", "mc_freeze_model"),
    ):
        process = home.train(*short, wrong, "--resume=never")
        assert process.code != 0 and said in process.stderr


# --- weights and processes ---


def test_the_models_weights_are_the_baselines_bit_for_bit() -> None:
    runtime = Runtime(torch.device("cpu"), Precision(torch.float32, "test"), "sdpa", False, 0, 1)
    argv = [*SHAPE, *FLAGS]
    baseline = build_model(parse(BaseTrain, argv), ByteTokenizer(), runtime)
    recipe = parse(BaseTrain, [*argv, *MEMORY])

    def controller(rank: int) -> MCController:
        here = dataclasses.replace(runtime, rank=rank)
        return new_controller(build_model(recipe, ByteTokenizer(), here), recipe.memory, 128, recipe.trainer.seed, here)

    first, second = controller(0), controller(1)
    for name, weight in baseline.state_dict().items():
        assert torch.equal(first.model.state_dict()[name], weight)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} differs between processes"


def test_two_processes_train_the_memory_of_one_and_one_takes_it_up(home: Home, both: tuple[Home, Home]) -> None:
    processes = start_two(home, *FLAGS, *MEMORY)
    two = with_memory(home)
    processes[0].until(lambda: 20 in two.saved_steps())
    for process in processes:
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr + processes[1].stderr
    assert home.train(*FLAGS, *MEMORY).code == 0
    for mine, alone in zip(two.metrics(), both[1].metrics(), strict=True):
        assert mine.get("train/data_hash") == alone.get("train/data_hash")
        for key in alone.keys() & {"train/loss", "train/loss_lod0", "mc/token_loss", "mc/gist_recon"}:
            assert mine[key] == pytest.approx(alone[key], rel=1e-3), f"{key} at step {mine['step']}"
        # Of other layouts they are far apart; later the two runs drift apart by the order of their sums.
        for key in alone.keys() & {"mc/adv_delta_mean", "mc/adv_delta_p95"} if mine["step"] <= 20 else ():
            assert mine[key] == pytest.approx(alone[key], rel=0.1, abs=2e-6), f"{key} at step {mine['step']}"
