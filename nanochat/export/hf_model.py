"""Export of a model as a folder that Hugging Face's `transformers` loads: weights, configuration, code, tokenizer, model card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nanochat.checkpoint.load_model import Stage, Trained, build_model, model_weights
from nanochat.common import UserError, base_dir, fsync_dir, shown
from nanochat.export.hf_tokenizer import tokenizer_config, tokenizer_json
from nanochat.export.model_card import model_card
from nanochat.infer.conversation import ending
from nanochat.infer.sampling import Sampling
from nanochat.model.block import GATE_CHANNELS, QK_GAIN, ROTARY_BASE, VALUE_GAIN
from nanochat.model.cross_entropy import SOFTCAP
from nanochat.model.gpt import SMEAR_CHANNELS, GPTConfig

MODEL_FILES = Path(__file__).parent / "model_files"  # copied as they are
CLASSES = {
    "AutoConfig": "configuration_megacontext.MegaContextConfig",
    "AutoModelForCausalLM": "modeling_megacontext.MegaContextForCausalLM",
    "AutoTokenizer": [None, "tokenization_megacontext.MegaContextTokenizer"],
}


def check_out(out: Path) -> None:
    """Raises `UserError` if `out` is anything but an empty folder or a name that is free, or lies among the checkpoints."""
    real, artefacts = Path(os.path.realpath(out)), Path(os.path.realpath(base_dir()))
    if real.is_relative_to(artefacts) and any(part.endswith("_checkpoints") for part in real.relative_to(artefacts).parts[:1]):
        raise UserError(f"invalid --out {shown(out)}: it lies among the checkpoints, which training removes; name a folder elsewhere")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"invalid --out {out}: it is not a folder; name one that is empty or does not exist")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"invalid --out {out}: the folder is not empty; name one that is empty or does not exist")


def export_model(trained: Trained, stage: Stage, out: Path, dtype: torch.dtype | None, without_memory: bool) -> int:
    """Writes the model to `out`, which `check_out` accepts, and returns the size of the weights in bytes.

    The folder appears in one step, when all of it is on disk. `dtype` is that of the weights; None = as stored. `without_memory` is for
    the model card: the model has one, which is left out. Raises `UserError` if the folder cannot be written.
    """
    check_out(out)
    model = build_model(trained, dtype=dtype or model_weights(trained).saved["wte.weight"].dtype)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    tokenizer = trained.tokenizer
    stops = list(ending(tokenizer, stage == "base"))
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops, "pad_token_id": stops[0]}
    dtype_name = str(model.dtype).removeprefix("torch.")
    contents: dict[str, Any] = {
        "config.json": _config(model.config) | {"dtype": dtype_name} | ids | {"eos_token_id": stops[0]},
        "generation_config.json": {**ids, "max_new_tokens": Sampling().max_tokens},
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": tokenizer_config(
            tokenizer, names[stops[0]], model.config.max_seq_len, {"AutoTokenizer": CLASSES["AutoTokenizer"]}
        ),
    }
    card = model_card(trained, stage, model.config, sum(tensor.numel() for tensor in weights.values()), dtype_name, without_memory)
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in contents.items():
            _write(temporary / name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        _write(temporary / "README.md", card.encode())
        for file in sorted(MODEL_FILES.iterdir()):
            if file.suffix in (".py", ".jinja"):
                _write(temporary / file.name, file.read_bytes())
        size = _write_weights(temporary / "model.safetensors", weights)
        fsync_dir(temporary)
        os.rename(temporary, out)  # refused if another process has filled the folder meanwhile
        fsync_dir(out.parent)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; make room there or name another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def _config(config: GPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["MegaContextForCausalLM"],
        "auto_map": {name: CLASSES[name] for name in ("AutoConfig", "AutoModelForCausalLM")},
        "model_type": "megacontext",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "attention_windows": config.windows,
        "rotary_base": ROTARY_BASE,
        "qk_gain": QK_GAIN,
        "value_gain": VALUE_GAIN,
        "gate_channels": GATE_CHANNELS,
        "smear_channels": SMEAR_CHANNELS,
        "logit_softcap": SOFTCAP,
        "tie_word_embeddings": False,
    }


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> int:
    data = safetensors.torch.save(dict(weights), metadata={"format": "pt"})
    _write(path, data)
    return len(data)
