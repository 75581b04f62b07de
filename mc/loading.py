"""A trained memory for inference and evaluation: the controller out of a checkpoint, around the model out of the same one."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from mc.config import MCConfig
from mc.train.controller import MCController
from nanochat.checkpoint.load_model import PREFIX, TRAINED_BY, Stage, Trained, build_model, open_trained, say_to_stderr
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.model.attention import Backend
from nanochat.model.gpt import GPT

Config = TypeVar("Config")
META = "mc_config"  # key of the memory's configuration in a checkpoint's meta


class LoadedController(NamedTuple):
    """A memory and its model in evaluation mode, the tokenizer, and the checkpoint's meta with `tag` and `step` added.

    `identity` says whose sessions it can read: those made with these weights and this tokenizer.
    """

    controller: MCController
    tokenizer: Tokenizer
    meta: dict[str, Any]
    identity: dict[str, str]


def load_controller(
    stage: Stage = "base",
    tag: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: Backend | Literal["auto"] = "auto",
    say: Callable[[str], None] = say_to_stderr,
) -> LoadedController:
    """The memory of `stage` called `tag`; arguments and errors are those of `nanochat.checkpoint.load_model.load_model`.

    Raises `UserError` too where the model was trained without a memory, or with one of another version.
    """
    trained = open_trained(stage, tag, step, say)
    if not has_memory(trained.meta):
        raise UserError(f"{trained.name} was trained without a memory; train one with python -m scripts.{TRAINED_BY[stage]} --mc")
    name = f"{stage} {trained.folder.name}, step {trained.checkpoint.step}"
    identity = {"model": name, "weights": trained.checkpoint.digest, "tokenizer": trained.tokenizer.fingerprint}
    return LoadedController(
        build_controller(trained, build_model(trained, device, dtype, backend)), trained.tokenizer, trained.meta, identity
    )


def has_memory(meta: Mapping[str, Any]) -> bool:
    """Whether the checkpoint with this meta holds a memory."""
    return meta.get(META) is not None


def build_controller(trained: Trained, model: GPT) -> MCController:
    """The memory of a checkpoint around `model`, which came out of it, for inference; its networks keep fp32 weights."""
    return restore_controller(trained, model).requires_grad_(False).eval()


def restore_controller(trained: Trained, model: GPT, **options: Any) -> MCController:
    """The memory of a checkpoint around `model`, to be trained on, the model too; `options` are further arguments of `MCController`.

    Raises `UserError` where the checkpoint does not describe a memory of this version.
    """
    try:
        config = dataclasses.replace(from_dict(MCConfig, trained.meta[META]), mc_freeze_model=False)  # which was for that run
        controller = MCController(model, config, model.config.max_seq_len, **options)
        state = {name: tensor for name, tensor in trained.checkpoint.tensors["model"].items() if not name.startswith(PREFIX)}
        keys = controller.load_state_dict(state, strict=False)
        missing = [name for name in keys.missing_keys if not name.startswith(PREFIX)]
        if wrong := sorted([*missing, *keys.unexpected_keys]):
            raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in missing else 'unknown'}")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"{trained.name} does not describe a memory of this version ({what}); train it again") from error
    return controller.to(model.wte.weight.device)


def from_dict(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """What `dataclasses.asdict` made `values` of, parts within parts.

    A field that is missing has come since, and its default is what was done before. Raises `ValueError` naming a field that
    is unknown, and what the class itself raises for a wrong value.
    """
    hints = typing.get_type_hints(config_class)
    if unknown := sorted(set(values) - {field.name for field in dataclasses.fields(config_class)}):
        raise ValueError(f"{unknown[0]} of {config_class.__name__} is unknown")
    parts = {name: from_dict(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value for name, value in values.items()}
    return config_class(**parts)
