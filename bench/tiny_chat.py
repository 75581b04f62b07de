"""Chat server with a reciting model, whose known replies make it possible to check what a client gets.

The model is a real one of a few thousand parameters, saved as by training. Its layers add nothing, as at the start of training, and
its head maps every token to the next one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.warm_start import Process, WarmStart
from mc.config import MCConfig
from mc.train.controller import MCController
from nanochat.checkpoint.store import CheckpointStore
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.model.gpt import GPT, GPTConfig, norm
from nanochat.train.objective import NextTokenObjective

SCRIPT = "scripts.chat_web"
STEP = 7
VOCABULARY = 300
TEXT = "The quick brown fox jumps over the lazy dog, then rests beside the river until the sun sets behind the hills. " * 3
ALPHABET = "abcdefghijklmnopqrstuvwxyz "


def tiny_tokenizer() -> Tokenizer:
    """Tokenizer with a few merges; ids below 256 are the bytes."""
    return Tokenizer.train([TEXT], VOCABULARY)


def alphabet(tokenizer: Tokenizer) -> list[int]:
    """Tokens of the alphabet: one per letter, none twice."""
    return [tokenizer.special_tokens["<|assistant_start|>"], *ALPHABET.encode()]


def sum_with_a_tool(tokenizer: Tokenizer) -> list[int]:
    """Reply that calls the calculator, which gives the answer 42."""
    special = tokenizer.special_tokens
    return [
        *(special["<|assistant_start|>"], *b"Sum:", special["<|python_start|>"], *b"6*7", special["<|python_end|>"]),
        *(special["<|output_end|>"], *b"-done!", special["<|assistant_end|>"]),
    ]


def reciting_model(tokenizer: Tokenizer, tokens: Sequence[int], certainty: float, context_tokens: int) -> GPT:
    """Model whose most likely token after `tokens[i]` is `tokens[i + 1]`, and after the last one `tokens[1]`.

    `certainty` is its logit; the others' are about 1, those of special tokens 0. No token occurs twice in `tokens`, except around
    the output of a tool.
    """
    config = GPTConfig(depth=2, aspect_ratio=32, head_dim=16, max_seq_len=context_tokens, window_pattern="L", vocab_size=VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, torch.float32).init_weights(generator).requires_grad_(False)
    after = norm(model.wte.weight)  # (V, D): what the head reads after each token
    head = torch.randn(VOCABULARY, config.width, generator=generator) / config.width
    head[list(tokenizer.special_tokens.values())] = 0
    for token, following in zip(tokens, [*tokens[1:], tokens[1]], strict=True):
        head[following] += certainty / config.width * after[token]
    model.lm_head.weight.copy_(head)
    return model


def save_chat_model(
    base: Path,
    tag: str = "alphabet",
    certainty: float = 9.0,
    context_tokens: int = 8192,
    stage: str = "sft",
    memory: bool = False,
) -> Tokenizer:
    """Saves the model called `tag`, "alphabet" or "sum", under `base` as training does, with its tokenizer.

    A `memory` has random weights, so that its focus wanders; the replies do not depend on it.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.save(base / "tokenizer")
    recited = {"alphabet": alphabet, "sum": sum_with_a_tool}[tag](tokenizer)
    model = reciting_model(tokenizer, recited, certainty, context_tokens)
    meta = {"model_config": dataclasses.asdict(model.config), "tokenizer": tokenizer.fingerprint, "recipe": {}}
    state = NextTokenObjective(model).state_dict()
    if memory:
        controller = wandering_memory(model)
        state, meta["mc_config"] = controller.state_dict(), dataclasses.asdict(controller.config)
    tensors = {"model": state, "optimizer": {"step": torch.zeros(1)}}
    CheckpointStore(base / f"{stage}_checkpoints" / tag).save(STEP, tensors, meta)
    assert len(SPECIAL_TOKENS) + 256 < VOCABULARY
    return tokenizer


@torch.no_grad()
def wandering_memory(model: GPT) -> MCController:
    """Memory with blocks of 8 tokens around `model`, whose LensNet has random weights."""
    controller = MCController(model, MCConfig(block_size=8, mc_max_lod=2), model.config.max_seq_len)
    generator = torch.Generator().manual_seed(0)
    controller.init_weights(generator)
    for parameter in controller.focus.lensnet.parameters():
        parameter.normal_(std=[1, *parameter.shape][-1] ** -0.5, generator=generator)
    return controller


@dataclass
class Server:
    """Running `chat_web`."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON at `path`."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=dict(headers or {})), timeout=30) as response:
            return json.load(response)

    def stats(self) -> dict[str, Any]:
        """Contents of /stats."""
        return self.get("/stats")

    def memory_mib(self) -> float:
        """Resident memory of the server's process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20


@contextmanager
def running(warm: WarmStart, base: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Server for the models under `base`, on a free port; stopped at the end."""
    argv = ["--port=0", "--device-type=cpu", *flags]
    surroundings = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DTYPE": "fp32", **(environment or {})}
    process = warm.start(SCRIPT, argv, surroundings)
    try:
        process.until(lambda: "serving" in process.stdout)
        yield Server(process, int(process.stdout.split(" on http://")[1].split(" ")[0].rpartition(":")[2]))
    finally:
        process.signal(signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """Port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]
