"""export_hf as a user runs it: a base, a fine-tuned and an -mc model, loaded by transformers; what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nanochat.checkpoint.load_model import load_model
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import base_dir
from nanochat.data.chat_template import render_prompt
from nanochat.export import hf_model
from nanochat.export.model_card import MEMORY_LEFT_OUT
from nanochat.flags import run
from nanochat.infer.conversation import ending
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from scripts.export_hf import main
from tests.helpers.exported import load
from tests.helpers.tiny_model import save_base, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
FILES |= {"configuration_megacontext.py", "modeling_megacontext.py", "tokenization_megacontext.py", "chat_template.jinja"}


def save(base: Path, stage: str, tag: str, **meta) -> None:
    """A model of `stage`; its weights differ from stage to stage, and `meta` is added to that of the checkpoint."""
    folder = save_base(base, tiny_model(seed=len(stage), vocab_size=TOKENIZER.vocab_size), TOKENIZER, tag)
    if meta:
        store = CheckpointStore(folder.parent)
        checkpoint = store.load(7)
        extra = {"gistnet.w": torch.ones(2)}  # of a memory
        store.save(7, {"model": {**checkpoint.tensors["model"], **extra}}, {**checkpoint.meta, **meta})
    if stage != "base":
        shutil.move(base / "base_checkpoints" / tag, base / f"{stage}_checkpoints" / tag)


@pytest.fixture
def models(base: Path) -> Path:
    """A base model d1, fine-tuned too, and an -mc model."""
    for stage, tag, meta in (("sft", "d1", {}), ("base", "d1", {}), ("mid", "d2-mc", {"mc_config": {}})):
        (base / f"{stage}_checkpoints").mkdir(exist_ok=True)
        save(base, stage, tag, **meta)
    return base


def export(*arguments: str) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        run(lambda: main(arguments))
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "stage", "tag"),
    [
        (["--source=base"], "base", "d1"),
        (["--model-tag=d1"], "sft", "d1"),
        (["--source=mid", "--model-tag=d2-mc", "--step=7"], "mid", "d2-mc"),
    ],
)
def test_transformers_loads_it_and_says_what_ours_says(
    models: Path, tmp_path: Path, hugging_face: None, capsys: pytest.CaptureFixture[str], arguments: list[str], stage: str, tag: str
) -> None:
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    out = tmp_path / "new" / "folder"
    assert export(f"--out={out}", *arguments) == 0
    said = capsys.readouterr().out
    assert f"model: {stage} {tag}, step 7" in said and f"exported to {out}" in said
    assert {path.name for path in out.iterdir()} == FILES and [path.name for path in out.parent.iterdir()] == ["folder"]
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before

    card = (out / "README.md").read_text()
    assert (MEMORY_LEFT_OUT in card) == (MEMORY_LEFT_OUT in said) == (tag == "d2-mc")
    assert f"checkpoint {tag} of the stage {stage}, step 7" in card
    assert not any(name.startswith("gistnet") for name in safetensors.torch.load_file(out / "model.safetensors"))

    model, tokenizer = load(out)
    ours, _, _ = load_model(stage, tag, say=lambda _: None)
    base = stage == "base"
    if base:
        prompt = tokenizer("The capital")["input_ids"]
        assert prompt == TOKENIZER.encode("The capital", bos=True)
    else:
        chat = {"messages": [{"role": "user", "content": "Who are you?"}]}
        prompt = tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=True)["input_ids"]
        assert prompt == render_prompt(TOKENIZER, chat)
    stops = ending(TOKENIZER, base)
    assert model.generation_config.eos_token_id == list(stops) and tokenizer.eos_token_id == stops[0]
    [reply] = Engine(ours).generate([prompt], Sampling(temperature=0, max_tokens=20), stops)
    generated = model.generate(torch.tensor([prompt]), max_new_tokens=20)[0].tolist()
    assert generated == [*prompt, *reply.tokens]


def test_the_card_shows_code_that_runs(models: Path, tmp_path: Path, hugging_face: None, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("base", "sft"):
        out = f"exported-{stage}"
        assert export(f"--out={out}", f"--source={stage}", "--model-tag=d1") == 0
        card = Path(out, "README.md").read_text()
        code = card.partition("```python\n")[2].partition("```")[0].replace('folder = "."', f'folder = "{out}"')
        capsys.readouterr()
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


def test_an_empty_folder_is_filled_and_another_is_left_alone(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert export(f"--out={tmp_path / 'empty'}", "--dtype=bf16") == 0
    weights = safetensors.torch.load_file(tmp_path / "empty" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    capsys.readouterr()
    among = base_dir() / "base_checkpoints" / "d1" / "step_0000007" / "hf"
    for out in (mine, mine / "notes.txt", tmp_path / "link", tmp_path / "empty", among):
        assert export(f"--out={out}") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: invalid --out {out}: ") and error.count("\n") == 1
    assert (mine / "notes.txt").read_text() == "mine" and [path.name for path in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--out is missing"),
        (["--out=x", "--dtype=int8"], 2, "int8"),
        (["--out=x", "--model-tag=d9"], 1, "no model d9"),
        (["--out=x", "--model-tag=../d1"], 1, "invalid model tag"),
        (["--out=x", "--step=8"], 1, "no checkpoint of step 8"),
        (["--out=~nobody of this name/x"], 1, "no such home folder"),
    ],
)
def test_bad_input_is_one_line(
    models: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("failing", ["model.safetensors", "tokenizer.json"])
def test_nothing_half_written_stays(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    write = hf_model._write

    def full(path: Path, data: bytes) -> None:
        if path.name == failing:
            write(path, data[: len(data) // 2])
            raise OSError(28, os.strerror(28))
        write(path, data)

    monkeypatch.setattr(hf_model, "_write", full)
    out = tmp_path / "outer" / "out"
    assert export(f"--out={out}") == 1
    assert "No space left on device; make room there or name another --out" in capsys.readouterr().err
    assert list((tmp_path / "outer").iterdir()) == []


def test_a_folder_that_is_filled_meanwhile_is_left_alone(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out, write = tmp_path / "out", hf_model._write

    def slow(path: Path, data: bytes) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs").touch()
        write(path, data)

    monkeypatch.setattr(hf_model, "_write", slow)
    assert export(f"--out={out}") == 1
    assert f"cannot write {out}" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["theirs"] and not list(tmp_path.glob(".out*"))


def test_the_configuration_has_the_constants_of_the_model(models: Path, tmp_path: Path) -> None:
    assert export(f"--out={tmp_path / 'out'}", "--source=base") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    shape = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 6, "head_dim": 8}
    assert shape.items() <= config.items() and config["attention_windows"] == [0, 0, 0]
    assert (config["qk_gain"], config["value_gain"], config["rotary_base"], config["logit_softcap"]) == (1.2, 3.0, 100_000.0, 15.0)
