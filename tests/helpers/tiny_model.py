"""Real models of a few thousand parameters, with every part of theirs at work, and real checkpoints of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from nanochat.checkpoint.store import CheckpointStore
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.objective import NextTokenObjective

TEXT = """The capital of France is Paris. def add(a, b): return a + b. class Node: pass. Grüße, señor — 東京 is a city.
The most important thing is to keep the loop small; the rest of the module returns True if it can, and False if not.
"""


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **config) -> GPT:
    """A model whose every parameter matters: what is zero at the start of training is random here."""
    settings = {"depth": 3, "aspect_ratio": 16, "head_dim": 8, "max_seq_len": 24, "window_pattern": "L", "vocab_size": 61}
    model = GPT(GPTConfig(**(settings | config)), dtype)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and name != "wte.weight":
            parameter.data.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    model.smear_lambda.data.fill_(0.7)
    return model.requires_grad_(False)


def tiny_tokenizer(vocab_size: int = 300) -> Tokenizer:
    """A real tokenizer with a few merges."""
    assert vocab_size >= 256 + len(SPECIAL_TOKENS)
    return Tokenizer.train([TEXT * 3], vocab_size)


def full_logits(model: GPT, tokens: list[int]) -> torch.Tensor:
    """Logits [T,V] of a whole row without any cache."""
    row = torch.tensor([tokens])
    with torch.no_grad():
        return model.logits(model.backbone(model.embed(row), model.rotary(0, len(tokens))))[0]


def save_base(base: Path, model: GPT, tokenizer: Tokenizer, tag: str = "tiny", step: int = 7, dataset: str = "local") -> Path:
    """Saves `model` as base_train does; the tokenizer too."""
    tokenizer.save(base / "tokenizer")
    recipe = {
        "data": {"dataset": dataset, "packing": "bestfit"},
        "trainer": {"device_batch_size": 4, "seed": 42},
        "eval_tokens": 10 * model.config.max_seq_len,
    }
    meta = {"model_config": dataclasses.asdict(model.config), "tokenizer": tokenizer.fingerprint, "recipe": recipe}
    tensors = {"model": NextTokenObjective(model).state_dict(), "optimizer": {"step": torch.zeros(1)}}
    return CheckpointStore(base / "base_checkpoints" / tag).save(step, tensors, meta)
