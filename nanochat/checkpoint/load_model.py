"""Loads trained models for inference from the newest valid checkpoint, with their tokenizer."""

from __future__ import annotations

import dataclasses
import glob
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from nanochat.checkpoint.restore import restore_module
from nanochat.checkpoint.store import Checkpoint, CheckpointStore
from nanochat.checkpoint.tensor_file import ReadTensors
from nanochat.common import UserError, base_dir, first_line
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.model.attention import AttentionBackend, choose_backend
from nanochat.model.gpt import GPT, GPTConfig

Stage = Literal["base", "mid", "sft", "rl"]
STAGES: tuple[Stage, ...] = ("rl", "sft", "mid", "base")  # the most advanced first
TRAINED_BY = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}
LONGEST_TAG = 200  # bytes, so that file systems take it with what is put behind it
PREFIX = "model."  # of the language model's parameters in the state of the training objective


class Trained(NamedTuple):
    """A model as training saved it: weights and meta of a checkpoint, its folder, and the tokenizer."""

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
    """Prints a line to stderr, so that it does not mix with the output of the program."""
    print(text, file=sys.stderr, flush=True)


def load_model(
    stage: Stage = "base",
    tag: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | Literal["auto"] = "auto",
    say: Callable[[str], None] = say_to_stderr,
) -> Loaded:
    """Loads the model `tag` of `stage` (default: the one written last) at `step` (default: the newest valid one).

    Its parameters are in the compute dtype `dtype`: training casts them at each step, here they are cast once. Says which
    checkpoint it took. Raises `UserError` if there is none, it is not valid, or the tokenizer is not the model's.
    """
    trained = open_trained(stage, tag, step, say)
    return Loaded(build_model(trained, device, dtype, backend), trained.tokenizer, trained.meta)


def open_trained(
    stage: Stage = "base", tag: str | None = None, step: int | None = None, say: Callable[[str], None] = say_to_stderr
) -> Trained:
    """Reads the weights of all that was trained together; arguments and errors are those of `load_model`."""
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
    """The first of `stages` with a checkpoint of `tag` (default: of any tag ending in `ending`); the last one if none has."""
    for stage in stages:
        if any((base_dir() / f"{stage}_checkpoints").glob(f"{glob.escape(tag) if tag else '*' + ending}/step_*")):
            return stage
    return stages[-1]


def newest_tag(stage: Stage, ending: str = "") -> str | None:
    """The tag of `stage` that was written last, of those ending in `ending`; None if there is none."""
    written: dict[str, int] = {}
    for step in (base_dir() / f"{stage}_checkpoints").glob(f"*{ending}/step_*"):
        written[step.parent.name] = max(written.get(step.parent.name, 0), step.stat().st_mtime_ns)
    return max(written, key=written.__getitem__) if written else None


def is_tag(text: str) -> bool:
    """Whether `text` is the name of a folder that lies where it is made: visible, printable, without slashes, not too long."""
    if not text.isprintable() or text != text.strip():
        return False
    return 0 < len(text.encode()) <= LONGEST_TAG and not text.startswith(".") and not {"/", "\\"} & set(text)


def check_tag(config: Any, *names: str) -> None:
    """Raises `ValueError` for the first of the flags `names` of `config` that is given and no tag."""
    for name in names:
        if (tag := getattr(config, name)) and not is_tag(tag):
            raise ValueError(
                f"invalid {name} {tag!r}: expected the name of a folder, without slashes, not too long, "
                "without spaces around it and not beginning with a dot"
            )


def _folder(stage: Stage, tag: str | None) -> Path:
    """The checkpoint folder of `tag` (default: the one written last)."""
    root = base_dir() / f"{stage}_checkpoints"
    how = f"train one with python -m scripts.{TRAINED_BY[stage]}"
    if tag is not None:
        if not is_tag(tag):
            raise UserError(f"invalid model tag {tag!r}: expected the name of a folder in {root}")
        if not (root / tag).is_dir():
            have = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
            raise UserError(f"no model {tag} in {root} (available: {have or 'none'}); use another --model-tag or {how}")
        return root / tag
    newest = newest_tag(stage)
    if newest is None:
        raise UserError(f"no model in {root}; {how}")
    return root / newest


def load_weights_into(model: GPT, trained: Trained) -> None:
    """Loads the weights of a checkpoint into `model` for further training. Raises `UserError` if their shapes differ."""
    theirs, mine = trained.meta["model_config"], dataclasses.asdict(model.config)
    for name in mine:
        # The weights do not depend on the length of rows and on the windows.
        if name not in ("max_seq_len", "window_pattern") and mine[name] != theirs.get(name):
            raise UserError(
                f"{trained.name} has {name} {theirs.get(name)} and this run {mine[name]}; use the same --{name.replace('_', '-')}"
            )
    try:
        restore_module(model, model_weights(trained).saved)
    except ValueError as error:
        raise UserError(f"{trained.name} does not describe a model of this version ({error}); train it again") from error


def model_weights(trained: Trained) -> ReadTensors:
    """The weights of the language model alone, by name."""
    saved = trained.checkpoint.saved["model"].items()
    return ReadTensors({name.removeprefix(PREFIX): tensor for name, tensor in saved if name.startswith(PREFIX)})


def build_model(
    trained: Trained,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | Literal["auto"] = "auto",
) -> GPT:
    """The language model of a checkpoint, for inference; see `load_model`."""
    device = torch.device(device)
    backend = choose_backend(backend, device, dtype)
    try:
        config = GPTConfig(**trained.meta["model_config"])
        with torch.device("meta"):  # allocates and initialises no weights: they are replaced at once
            model = GPT(config, dtype, backend)
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in model_weights(trained).items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{trained.name} does not describe a model of this version ({first_line(error)}); train it again") from error
    return model.requires_grad_(False).eval()
