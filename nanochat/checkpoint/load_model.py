"""A trained model for inference: out of the newest valid checkpoint, with the tokenizer it was trained with."""

from __future__ import annotations

import dataclasses
import glob
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from nanochat.checkpoint.store import Checkpoint, CheckpointStore
from nanochat.common import UserError, base_dir
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.model.attention import Backend, choose_backend
from nanochat.model.gpt import GPT, GPTConfig

Stage = Literal["base", "mid", "sft", "rl"]
STAGES: tuple[Stage, ...] = ("rl", "sft", "mid", "base")  # the latest first
TRAINED_BY = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}
PREFIX = "model."  # of the language model's parameters in the state of the objective that was trained


class Trained(NamedTuple):
    """What training left of a model: a checkpoint's weights and meta, where it lies, and the tokenizer it was trained with."""

    checkpoint: Checkpoint
    folder: Path
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """Folder and step, for messages."""
        return f"{self.folder} step {self.checkpoint.step}"

    @property
    def meta(self) -> dict[str, Any]:
        """The checkpoint's meta with `tag` and `step` added."""
        return {**self.checkpoint.meta, "tag": self.folder.name, "step": self.checkpoint.step}


class Loaded(NamedTuple):
    """A model in evaluation mode, its tokenizer, and the checkpoint's meta with `tag` and `step` added."""

    model: GPT
    tokenizer: Tokenizer
    meta: dict[str, Any]


def say_to_stderr(text: str) -> None:
    """Prints a line where it does not mix with what the program is asked for."""
    print(text, file=sys.stderr, flush=True)


def load_model(
    stage: Stage = "base",
    tag: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: Backend | Literal["auto"] = "auto",
    say: Callable[[str], None] = say_to_stderr,
) -> Loaded:
    """Loads the model of `stage` called `tag` (default: the one written last) at `step` (default: the newest valid one).

    Its parameters are in `dtype`, in which it computes: what training casts at each step is cast once. Says which
    checkpoint it took. Raises `UserError` where there is none, it is not valid, or the tokenizer is not the model's.
    """
    trained = open_trained(stage, tag, step, say)
    return Loaded(build_model(trained, device, dtype, backend), trained.tokenizer, trained.meta)


def open_trained(
    stage: Stage = "base", tag: str | None = None, step: int | None = None, say: Callable[[str], None] = say_to_stderr
) -> Trained:
    """Reads the weights that `load_model` would take, of all that was trained together; see there."""
    folder = _folder(stage, tag)
    store = CheckpointStore(folder)
    groups = ("model",)
    checkpoint = store.load_newest(say, groups) if step is None else store.load(step, groups)
    if checkpoint is None:
        raise UserError(f"{folder} has no valid checkpoint; train the model with python -m scripts.{TRAINED_BY[stage]}")
    trained = Trained(checkpoint, folder, load_tokenizer())
    trained_with, fingerprint = trained.meta.get("tokenizer"), trained.tokenizer.fingerprint
    if trained_with != fingerprint:
        raise UserError(
            f"{trained.name} was trained with the tokenizer {trained_with}, but {base_dir() / 'tokenizer'} holds {fingerprint}; "
            "put the model's tokenizer back or train the model again"
        )
    say(f"model: {stage} {folder.name}, step {checkpoint.step}")
    return trained


def latest_stage(tag: str | None = None, stages: Sequence[Stage] = STAGES, ending: str = "") -> Stage:
    """The first of `stages` with a checkpoint of the model `tag`, by default of any whose name ends so; where none has, the last."""
    for stage in stages:
        if any((base_dir() / f"{stage}_checkpoints").glob(f"{glob.escape(tag) if tag else '*' + ending}/step_*")):
            return stage
    return stages[-1]


def newest_tag(stage: Stage, ending: str = "") -> str | None:
    """The folder of `stage` that was written to last, of those whose names end so; None where there is none."""
    written: dict[str, int] = {}
    for step in (base_dir() / f"{stage}_checkpoints").glob(f"*{ending}/step_*"):
        written[step.parent.name] = max(written.get(step.parent.name, 0), step.stat().st_mtime_ns)
    return max(written, key=written.__getitem__) if written else None


def _folder(stage: Stage, tag: str | None) -> Path:
    """The checkpoints of `tag`; without one, the folder that was written to last."""
    root = base_dir() / f"{stage}_checkpoints"
    how = f"train one with python -m scripts.{TRAINED_BY[stage]}"
    if tag is not None:
        if Path(tag).name != tag:
            raise UserError(f"{tag!r} is no model tag; a tag is the name of a folder in {root}")
        if not (root / tag).is_dir():
            have = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
            raise UserError(f"no model {tag} in {root} (there: {have or 'none'}); give another --model-tag or {how}")
        return root / tag
    newest = newest_tag(stage)
    if newest is None:
        raise UserError(f"no model in {root}; {how}")
    return root / newest


def load_weights_into(model: GPT, trained: Trained) -> None:
    """Gives `model`, which is to be trained on, the weights of a checkpoint. Raises `UserError` where its shape is another."""
    theirs, mine = trained.meta["model_config"], dataclasses.asdict(model.config)
    for name in mine:
        # Longer or shorter rows and other windows are a matter of training, not of weights.
        if name not in ("max_seq_len", "window_pattern") and mine[name] != theirs.get(name):
            raise UserError(
                f"{trained.name} has {name} {theirs.get(name)} and this run {mine[name]}; give --{name.replace('_', '-')} as there"
            )
    model.load_state_dict(_weights(trained))


def _weights(trained: Trained) -> dict[str, torch.Tensor]:
    """The language model's weights, of all that was trained together."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in trained.checkpoint.tensors["model"].items() if name.startswith(PREFIX)}


def build_model(
    trained: Trained,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: Backend | Literal["auto"] = "auto",
) -> GPT:
    """The language model of a checkpoint, for inference; see `load_model`."""
    device = torch.device(device)
    backend = choose_backend(backend, device, dtype)
    try:
        config = GPTConfig(**trained.meta["model_config"])
        with torch.device("meta"):  # no memory and no time for weights that are replaced at once
            model = GPT(config, dtype, backend)
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in _weights(trained).items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{trained.name} does not describe a model of this version ({what}); train it again") from error
    return model.requires_grad_(False).eval()
