"""Memories from real checkpoints: the same one, or one line that says why not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mc.config import MCConfig
from mc.eval.row_eval import evaluate_memory
from mc.loading import REMOVED_FLAGS, REMOVED_STATE, from_dict, load_memory, restore
from mc.memory_model import MemoryModel
from mc.train.controller import MCController
from nanochat.checkpoint.load_model import build_model, open_trained
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.train.optim import OptimFlags
from nanochat.train.schedule import TrainPlan
from tests.helpers.checkpoints import contents
from tests.helpers.tiny_memory import SEQ_LEN, tiny_batch, tiny_memory
from tests.helpers.tiny_model import save_base, tiny_model, tiny_tokenizer

VOCABULARY = 300
CONFIGS = [
    {"gist": {"gistnet_type": "context", "gistnet_pooling": "query", "gist_slots": 2}, "positional_type": "simple"},
    {"gist": {"gistnet_type": "layered"}},
    {"gist": {"gistnet_head": "linear"}, "mc_gist_recon_weight": 0.1, "mc_aux_dtype": "fp32"},
]


def save_memory(base: Path, controller: MCController, step: int = 7, **meta) -> CheckpointStore:
    """Saves `controller` as base_train --mc does; the tokenizer too."""
    folder = save_base(base, controller.model, tiny_tokenizer(), tag="tiny-mc", step=step)
    store = CheckpointStore(folder.parent)
    tensors, old = contents(store.load(step))
    store.save(step, {**tensors, "model": controller.state_dict()}, {**old, "mc_config": dataclasses.asdict(controller.config), **meta})
    return store


def memory(**config) -> MCController:
    settings = {"mc_horizon": 6, "allocator_recent_tokens": 8, "mc_train_wc_length": 40, "model": {"vocab_size": VOCABULARY}}
    return tiny_memory(**(settings | config))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_memory_is_the_one_that_was_saved(base: Path, config: dict, dtype: torch.dtype) -> None:
    controller = memory(dtype=dtype, **config)
    save_memory(base, controller)
    loaded = load_memory(tag="tiny-mc", dtype=dtype, backend="sdpa", say=lambda _: None)
    assert loaded.memory.config == controller.config and loaded.memory.plan == controller.plan
    assert (loaded.meta["tag"], loaded.meta["step"]) == ("tiny-mc", 7) and loaded.tokenizer.fingerprint == tiny_tokenizer().fingerprint
    saved = {name: tensor for name, tensor in controller.state_dict().items() if not name.startswith("model.")}
    trained = open_trained("base", "tiny-mc", None, lambda _: None)
    restored = restore(trained, build_model(trained, "cpu", dtype, "sdpa"), MCController)
    state = restored.state_dict()
    assert all(torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in saved.items())
    assert type(loaded.memory) is MemoryModel
    state = {name: tensor for name, tensor in loaded.memory.state_dict().items() if not name.startswith("model.")}
    assert state.keys() == {name for name in saved if name.startswith(("gistnet.", "focus.lensnet."))}
    assert all(torch.equal(saved[name], tensor) and saved[name].dtype == tensor.dtype for name, tensor in state.items())
    assert not any(p.requires_grad for p in loaded.memory.parameters()) and not loaded.memory.training
    batch = tiny_batch(3, vocab=VOCABULARY)
    # Not to the bit: weights read from a file lie otherwise in memory, and matmuls go by that.
    assert evaluate_memory(loaded.memory, [batch], horizons=(6,)) == pytest.approx(
        evaluate_memory(controller, [batch], horizons=(6,)), rel=1e-3 if dtype == torch.float32 else 0.1
    )
    assert loaded.memory.plan.length == SEQ_LEN


def refused(match: str, **how) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_memory(say=lambda _: None, **how)
    assert "\n" not in str(error.value)


def test_a_model_without_a_memory_is_one_line(base: Path) -> None:
    refused("no model in .*base_checkpoints; train one with python -m scripts.base_train")
    save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    refused("tiny step 7 was trained without a memory; train one with python -m scripts.base_train --mc")


@pytest.mark.parametrize(
    "change, named",
    [
        ("unknown knob", "experts of GistConfig is unknown"),
        ("wrong value", "mc_train_wc_length"),
        ("other slots", "size mismatch"),
        ("missing tensor", "gistnet.c_out.weight is missing"),
        ("extra tensor", "more is unknown"),
        ("wrong shape", "size mismatch"),
    ],
)
def test_a_checkpoint_of_another_version_is_one_line(base: Path, change: str, named: str) -> None:
    store = save_memory(base, memory(gist={"gistnet_pooling": "query"}))
    tensors, meta = contents(store.load(7))
    config, state = meta["mc_config"], tensors["model"]
    if change == "unknown knob":
        config["gist"]["experts"] = 8
    elif change == "wrong value":
        config["mc_train_wc_length"] = 4000
    elif change == "other slots":
        config["gist"]["gist_slots"] = 2
    elif change == "missing tensor":
        del state["gistnet.c_out.weight"]
    elif change == "extra tensor":
        state["more"] = torch.zeros(1)
    else:
        state["gistnet.c_out.weight"] = torch.zeros(3, 3)
    store.save(8, tensors, meta)
    refused(f"does not describe a memory of this version .*{named}.*; train it again", step=8)
    assert load_memory(step=7, say=lambda _: None).meta["step"] == 7


@pytest.mark.parametrize("kind", ["transformer", "layered"])
def test_what_earlier_versions_had_more_is_skipped(base: Path, kind: str) -> None:
    """Flags, of the configuration and of its parts, and tensors; for inference and for later stages of training."""
    store = save_memory(base, memory(gist={"gistnet_type": kind}))
    tensors, meta = contents(store.load(7))
    meta["mc_config"]["lens_loss"] |= dict.fromkeys(REMOVED_FLAGS, 0.5)
    meta["mc_config"] |= dict.fromkeys(REMOVED_FLAGS, "old")
    tensors["model"] |= {f"{prefix}x": torch.ones(3) for prefix in REMOVED_STATE}
    store.save(8, tensors, meta)
    now, then = (load_memory(step=step, say=lambda _: None).memory for step in (7, 8))
    assert then.config == now.config
    trained = [open_trained("base", None, step, lambda _: None) for step in (7, 8)]
    training = [restore(each, build_model(each, "cpu", torch.float32, "auto"), MCController) for each in trained]
    for mine, other in ((now, then), training):
        assert mine.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in mine.state_dict().items())


def test_a_model_that_was_frozen_is_trained_by_later_stages(base: Path) -> None:
    save_memory(base, memory(mc_freeze_model=True))
    trained = open_trained("base", None, None, lambda _: None)
    model = build_model(trained, "cpu", torch.float32, "auto")
    restored = restore(trained, model.requires_grad_(True), MCController)
    assert all(p.requires_grad for p in model.parameters())
    assert any(group.named[0][0].startswith("model.") for group in restored.parameter_groups(OptimFlags(), TrainPlan(64, 3, 1.0, 1.0)))


def test_configurations_go_through_json_and_back() -> None:
    config = memory(gist={"gistnet_layers": 4}, mc_training_lod2_probability=0.125).config
    saved = dataclasses.asdict(config)
    assert from_dict(MCConfig, saved) == config
    del saved["mc_lr_mult"], saved["gist"]["gistnet_head"]  # as before these knobs were there
    assert from_dict(MCConfig, saved) == config


ENCODER = [f"blocks.{i}.{name}.weight" for i in range(2) for name in ("c_qkv", "c_proj", "mlp.c_fc", "mlp.c_proj")]
LENSNET = [
    *(f"{name}.weight" for name in ("c_in", "c_features", "c_matching", "head.c_fc", "head.c_proj", "c_score")),
    *(f"matching.{name}" for name in ("sharpness", "nothing", "age", "c_query.weight", "c_key.weight")),
    *(f"encoder.{name}" for name in ENCODER),
]
ATTENTION = ("c_q", "c_k", "c_v", "c_proj")
NAMES = {
    "_extra_state",
    *(f"model.{name}" for name in ("resid_lambdas", "x0_lambdas", "smear_lambda", "backout_lambda")),
    *(f"model.{name}.weight" for name in ("wte", "value_embeds", "lm_head", "smear_gate", "blocks.1.attn.value_gate")),
    *(f"model.blocks.{i}.attn.{name}.weight" for i in range(2) for name in ATTENTION),
    *(f"model.blocks.{i}.mlp.{name}.weight" for i in range(2) for name in ("c_fc", "c_proj")),
    "gistnet.queries",
    *(f"gistnet.{name}.weight" for name in ("c_in", "c_key", "head.c_fc", "head.c_proj", "c_out")),
    *(f"gistnet.encoder.{name}" for name in ENCODER),
    *(f"focus.lensnet.{name}" for name in LENSNET),
    "focus.advantages.moments",
    "reconstruction.places",
    "reconstruction.mlp.c_fc.weight",
    "reconstruction.mlp.c_proj.weight",
}


def test_the_names_in_checkpoints_are_the_ones_there_always_were() -> None:
    """Every checkpoint on disk has these: renaming a module must not change them."""
    controller = memory(gist={"gistnet_pooling": "query"}, mc_gist_recon_weight=0.1)
    assert controller.state_dict().keys() == NAMES
    alone = MemoryModel(controller.model, controller.config, SEQ_LEN)
    assert alone.state_dict().keys() == {name for name in NAMES if name.startswith(("model.", "gistnet.", "focus.lensnet."))}
    layered = {name for name in NAMES if name.startswith("model.")} | {f"gistnet.{name}" for name in ("correction", "mass")}
    layered |= {f"focus.lensnet.{name}" for name in ("heads", "moved", "stayed", "ahead", "lengths", "copying", "faint")}
    assert memory(gist={"gistnet_type": "layered"}).state_dict().keys() == layered | {"_extra_state"}


def test_sessions_and_loading_know_nothing_of_training(root: Path) -> None:
    code = "import sys, mc.loading, mc.session.conversation, mc.session.store; print([n for n in sys.modules if n.startswith('mc.train')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
