"""Models out of real checkpoints: the right one, the same one, or one line that says why not."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint.load_model import is_tag, load_model, load_weights_into, open_trained
from nanochat.checkpoint.open_file import OpenFile
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.train.state import open_checkpoint
from tests.helpers.checkpoints import contents, flip
from tests.helpers.tiny_model import full_logits, save_base, tiny_model, tiny_tokenizer

VOCABULARY = 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_is_the_one_that_was_saved(base: Path, dtype: torch.dtype) -> None:
    """Also in bf16, although its weights are cast when loaded and those of training at each use."""
    model, tokenizer = tiny_model(vocab_size=VOCABULARY, window_pattern="SL", dtype=dtype), tiny_tokenizer()
    save_base(base, model, tokenizer)
    loaded = load_model(dtype=dtype, say=lambda _: None, backend="sdpa")
    row = list(range(40))
    assert torch.equal(full_logits(loaded.model, row), full_logits(model, row))
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert (loaded.meta["tag"], loaded.meta["step"]) == ("tiny", 7)
    assert loaded.meta["model_config"] == dataclasses.asdict(model.config)


def test_the_model_written_last_is_taken_and_named(base: Path) -> None:
    tokenizer = tiny_tokenizer()
    for seed, (tag, step) in enumerate((("d9", 5), ("d4", 3), ("d4", 8))):
        folder = save_base(base, tiny_model(seed, vocab_size=VOCABULARY), tokenizer, tag, step)
        os.utime(folder, (1000 + seed, 1000 + seed))
    (base / "base_checkpoints" / "empty").mkdir()
    (base / "base_checkpoints" / "notes.txt").write_text("not a model")
    said: list[str] = []
    assert [load_model(say=said.append).meta[key] for key in ("tag", "step")] == ["d4", 8]
    assert "model: base d4, step 8" in said
    assert load_model(tag="d9", say=said.append).meta["step"] == 5
    assert load_model(tag="d4", step=3, say=said.append).meta["step"] == 3
    os.utime(base / "base_checkpoints" / "d9" / "step_0000005", (2000, 2000))
    assert load_model(say=said.append).meta["tag"] == "d9"


def test_a_flipped_byte_gives_the_checkpoint_before_it_loudly(base: Path) -> None:
    tokenizer = tiny_tokenizer()
    for step in (1, 2):
        folder = save_base(base, tiny_model(step, vocab_size=VOCABULARY), tokenizer, step=step)
    flip(folder / "model.safetensors")
    said: list[str] = []
    assert load_model(say=said.append).meta["step"] == 1
    assert any("0000002" in line or "step 2" in line for line in said)
    with pytest.raises(UserError, match="not a valid checkpoint"):
        load_model(step=2, say=said.append)


@pytest.mark.parametrize(("file", "loads"), [("optimizer", True), ("model", False)])
def test_inference_needs_the_model_intact_and_training_everything(base: Path, file: str, loads: bool) -> None:
    folder = save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    flip(folder / f"{file}.safetensors")
    for step in (None, 7):
        if loads:
            assert load_model(step=step, say=lambda _: None).meta["step"] == 7
        else:
            refused(base, "not a valid checkpoint" if step else "has no valid checkpoint", step=step)
    store = CheckpointStore(folder.parent)
    for resume, match in (("7", f"{file}.safetensors was changed"), ("auto", "no checkpoint in .* is valid")):
        with pytest.raises(UserError, match=match):
            open_checkpoint(store, resume, lambda _: None)


def test_inference_hashes_and_reads_the_weights_and_no_optimizer(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    read: dict[str, int] = {}

    def counting(file: OpenFile, target: memoryview, start: int, real: Any = OpenFile.read_into) -> None:
        read[file.path.name] = read.get(file.path.name, 0) + len(target)
        real(file, target, start)

    monkeypatch.setattr(OpenFile, "read_into", counting)
    load_model(say=lambda _: None)
    assert read == {name: 2 * (folder / name).stat().st_size for name in ("meta.json", "model.safetensors")}


def refused(base: Path, match: str, **how) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_model(say=lambda _: None, **how)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_one_line(base: Path) -> None:
    refused(base, "no model in .*base_checkpoints; train one with python -m scripts.base_train")
    refused(base, "no model x in .*available: none", tag="x")
    save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    refused(base, "no model x in .*available: tiny", tag="x")
    refused(base, "invalid model tag", tag="../base_checkpoints/tiny")
    refused(base, "no checkpoint of step 3; it has: 7", step=3)
    refused(base, "no model in .*sft_checkpoints", stage="sft")


def test_a_tag_is_the_name_of_a_folder_on_any_disk() -> None:
    for tag in ("d12", "a b", "é x'1.5B", "-x", "x" * 200, "é" * 100):
        assert is_tag(tag)
    for tag in ("", " ", "a ", "\u3000a", ".a", "a/b", "a\\b", "a\nb", "\udce9", "x" * 201, "é" * 101):
        assert not is_tag(tag)


def test_another_tokenizer_is_refused(base: Path) -> None:
    save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    other = tiny_tokenizer(301)
    other.save(base / "tokenizer")
    refused(base, f"was trained with the tokenizer {tiny_tokenizer().fingerprint}, but .* holds {other.fingerprint}")


@pytest.mark.parametrize("change", ["unknown key", "missing key", "no config", "missing tensor", "extra tensor", "wrong shape"])
def test_a_checkpoint_of_another_version_is_one_line(base: Path, change: str) -> None:
    save_base(base, tiny_model(vocab_size=VOCABULARY), tiny_tokenizer())
    store = CheckpointStore(base / "base_checkpoints" / "tiny")
    tensors, meta = contents(store.load(7))
    if change == "unknown key":
        meta["model_config"]["experts"] = 8
    elif change == "missing key":
        del meta["model_config"]["depth"]
    elif change == "no config":
        del meta["model_config"]
    elif change == "missing tensor":
        del tensors["model"]["model.lm_head.weight"]
    elif change == "extra tensor":
        tensors["model"]["model.more"] = torch.zeros(1)
    else:
        tensors["model"]["model.lm_head.weight"] = torch.zeros(3, 3)
    store.save(8, tensors, meta)
    refused(base, "does not describe a model of this version")


def test_training_starts_from_the_weights_of_a_checkpoint(base: Path) -> None:
    """Into rows of another length, in fp32 whatever the dtype."""
    model, tokenizer = tiny_model(1, vocab_size=VOCABULARY), tiny_tokenizer()
    save_base(base, model, tokenizer)
    other = tiny_model(2, vocab_size=VOCABULARY, max_seq_len=48, dtype=torch.bfloat16).requires_grad_(True)
    load_weights_into(other, open_trained(say=lambda _: None))
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, model.state_dict()[name]) and parameter.requires_grad and parameter.dtype == torch.float32


@pytest.mark.parametrize("shape", [{"depth": 2}, {"kv_heads": 3}])
def test_another_shape_is_named(base: Path, shape: dict[str, int]) -> None:
    save_base(base, tiny_model(vocab_size=VOCABULARY, kv_heads=2), tiny_tokenizer())
    ((name, value),) = shape.items()
    with pytest.raises(UserError, match=rf"tiny step 7 has {name} \d+ and this run {value}; use the same --{name.replace('_', '-')}"):
        load_weights_into(tiny_model(**({"vocab_size": VOCABULARY, "kv_heads": 2} | shape)), open_trained(say=lambda _: None))
