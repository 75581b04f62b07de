"""Loading of memories from checkpoints: a `MemoryModel` for sessions and evaluation, without what only training needs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from mc.config import MCConfig
from mc.memory_model import MemoryModel
from nanochat.checkpoint.load_model import PREFIX, TRAINED_BY, Stage, Trained, build_model, open_trained, say_to_stderr
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.model.attention import AttentionBackend
from nanochat.model.gpt import GPT

Config = TypeVar("Config")
Memory = TypeVar("Memory", bound=MemoryModel)
META = "mc_config"  # key of the memory's configuration in a checkpoint's meta
# Flags and state that memories of earlier versions had. Flags of `MCConfig` and its parts, prefixes of names of tensors.
REMOVED_FLAGS = {"mc_gist_targets", "mc_gist_delta_weight", "mc_lens_kl_weight", "mc_lens_rank_weight", "mc_lens_margin"}
REMOVED_FLAGS |= {"mc_lens_budget_weight", "mc_lens_budget_smooth_weight", "mc_lens_budget_smooth_beta"}
REMOVED_STATE = ("focus.reference.", "focus.sides")
# State of the training objective that a `MemoryModel` does not have: counters, statistics and helper networks of losses.
TRAINING_STATE = ("_extra_state", "focus.advantages.", "reconstruction.")


class LoadedMemory(NamedTuple):
    """A memory and its model in evaluation mode, the tokenizer, and the checkpoint's meta with `tag` and `step` added.

    `identity` names weights and tokenizer: sessions can only be read with those that made them.
    """

    memory: MemoryModel
    tokenizer: Tokenizer
    meta: dict[str, Any]
    identity: dict[str, str]


def load_memory(
    stage: Stage = "base",
    tag: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | Literal["auto"] = "auto",
    say: Callable[[str], None] = say_to_stderr,
) -> LoadedMemory:
    """Loads the memory of `stage` called `tag`; arguments and errors are those of `nanochat.checkpoint.load_model.load_model`.

    Also raises `UserError` if the model was trained without a memory, or with one of another version.
    """
    trained = open_trained(stage, tag, step, say)
    if not has_memory(trained.meta):
        raise UserError(f"{trained.name} was trained without a memory; train one with python -m scripts.{TRAINED_BY[stage]} --mc")
    name = f"{stage} {trained.folder.name}, step {trained.checkpoint.step}"
    identity = {"model": name, "weights": trained.checkpoint.digest, "tokenizer": trained.tokenizer.fingerprint}
    memory = build_memory(trained, build_model(trained, device, dtype, backend))
    return LoadedMemory(memory, trained.tokenizer, trained.meta, identity)


def has_memory(meta: Mapping[str, Any]) -> bool:
    """True if the checkpoint with this meta holds a memory."""
    return meta.get(META) is not None


def build_memory(trained: Trained, model: GPT) -> MemoryModel:
    """The memory of a checkpoint around its `model`, for inference; its networks keep fp32 weights."""
    return restore(trained, model, MemoryModel, ignored=TRAINING_STATE).requires_grad_(False).eval()


def restore(trained: Trained, model: GPT, memory_class: type[Memory], ignored: tuple[str, ...] = (), **options: Any) -> Memory:
    """The memory of a checkpoint around `model`, as a `memory_class`; `options` are further arguments of that.

    `ignored` are prefixes of names in the checkpoint to skip; all others must match. Raises `UserError` if the checkpoint does not
    describe a memory of this version.
    """
    try:
        config = dataclasses.replace(from_dict(MCConfig, trained.meta[META]), mc_freeze_model=False)  # which was for that run
        skipped = (PREFIX, *REMOVED_STATE, *ignored)
        memory = memory_class(model, config, model.config.max_seq_len, **options)
        state = {name: saved[...] for name, saved in trained.checkpoint.saved["model"].items() if not name.startswith(skipped)}
        keys = memory.load_state_dict(state, strict=False)
        missing = [name for name in keys.missing_keys if not name.startswith(PREFIX)]
        if wrong := sorted([*missing, *keys.unexpected_keys]):
            raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in missing else 'unknown'}")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{trained.name} does not describe a memory of this version ({reason}); train it again") from error
    return memory.to(model.wte.weight.device)


def from_dict(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Inverse of `dataclasses.asdict`, for nested configurations.

    A missing field is newer than `values` and gets its default; what was removed since is skipped. Raises `ValueError` naming an
    unknown field, and what the class itself raises for an invalid value.
    """
    hints = typing.get_type_hints(config_class)
    values = {name: value for name, value in values.items() if name not in REMOVED_FLAGS}
    if unknown := sorted(set(values) - {field.name for field in dataclasses.fields(config_class)}):
        raise ValueError(f"{unknown[0]} of {config_class.__name__} is unknown")
    parts = {name: from_dict(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value for name, value in values.items()}
    return config_class(**parts)
