"""Setting of `bench.mc_text`: flags, corpus, training processes and held-out rows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.long_corpus import installed_roots, write_corpus
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import ROOT, UserError, base_dir
from nanochat.data.sources import open_source
from nanochat.data.token_cache import TokenCache, open_tokens
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.flags import flag

TOKENIZER_CHARS = 30_000_000  # of text that the tokenizer is trained on
STOP_SECONDS = 120.0  # that a training process gets to save
TYPES = ("layered", "transformer", "context", "mean")
# Of what was tried, these did best; see dev/LOG.md, 2026-11-30.
FROZEN = "--mc-freeze-model --mc-anneal=0 --mc-lens-every=1 --mc-rows-every=1 --mc-num-random-variants=2 --mc-lens-decisions=8 "
MEMORY_FLAGS = {True: FROZEN + "--lr-mult=0.64 --wd-mult=0"}  # of layered gists; of others:
MEMORY_FLAGS[False] = FROZEN + (
    "--mc-gist-kl-weight=2 --mc-lens-occurrence-weight=5 --mc-lens-attention-weight=5 --gistnet-pooling=query --lr-mult=0.64 --wd-mult=0.75"
)
JUDGED = 32  # tokens after a decision point of training


@dataclass
class McText:
    """Measure the gain from far context on long documents, and the share of it that a memory recovers."""

    stage: Literal["all", "corpus", "survey", "memory", "cost", "long"] = flag("all", "all stages in this order; or one of them")
    folder: str = flag("", "folder of corpus, tokenizer and checkpoints; empty = mc_text in the base folder")
    roots: str = flag("", f"folders of packages to read, separated by {os.pathsep!r}; empty = those of this Python")
    minutes: float = flag(9.0, "time limit; the same command continues from there", unit="minutes")
    vocab_size: int = flag(8192, "vocabulary size", unit="tokens")
    depth: int = flag(4, "number of layers", unit="layers")
    aspect_ratio: int = flag(64, "width = depth × aspect ratio", unit="channels per layer")
    head_dim: int = flag(64, "size of an attention head", unit="channels")
    max_seq_len: int = flag(2048, "length of a row: T", unit="tokens")
    train_tokens: int = flag(8_000_000, "tokens to train on, rounded to steps", unit="tokens")
    memory_tokens: int = flag(1_600_000, "memory: tokens to train each on, from the survey's model; 0 = from scratch, as many as that")
    total_batch_size: int = flag(8192, "tokens per step", unit="tokens")
    device_batch_size: int = flag(4, "rows per micro-batch, in training and measuring", unit="rows")
    packing: Literal["stream", "bestfit"] = flag("bestfit", "training rows run across documents, or are cut from them and shuffled")
    train_flags: str = flag("", "further flags for base_train, separated by spaces; give them a --label")
    memory_flags: str = flag("", "memory: further flags, after those; empty = the best known for its type of gists")
    label: str = flag("", "suffix of the stage's model tags, to keep variations apart; memories start from the survey without one")
    eval_rows: int = flag(256, "held-out rows to measure on", unit="rows")
    horizons: str = flag("32,128,512", "tokens to predict after a Working Context", unit="tokens")
    windows: str = flag("", "survey: windows to compare with the full context; empty = 256 and T/4", unit="tokens")
    histories: str = flag("1024,8192,32768", "long: tokens that a session has read before those that are predicted", unit="tokens")
    cost_depths: str = flag("12", "cost: depths that are measured with random weights, beside the model's", unit="layers")
    recent: int = flag(128, "memory: tokens before the decision point that stay raw", unit="tokens")
    types: str = flag("layered", f"memory: types of gists, of {', '.join(TYPES)}")
    slots: str = flag("1", "memory: vectors of a gist", unit="vectors")

    def __post_init__(self) -> None:
        for name in ("minutes", "train_tokens", "eval_rows", "total_batch_size", "device_batch_size", "max_seq_len"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.memory_tokens < 0:
            raise ValueError(f"memory_tokens is {self.memory_tokens}; it must not be negative")
        for name in ("horizons", "windows", "slots", "histories", "cost_depths"):
            may_be_empty = name in ("windows", "cost_depths")
            if not all(text.isdecimal() and int(text) > 0 for text in getattr(self, name).split(",") if text or not may_be_empty):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be whole numbers from 1, separated by commas")
        if unknown := set(self.types.split(",")) - set(TYPES):
            raise ValueError(f"types is {self.types!r}; {sorted(unknown)[0]!r} is not one of {', '.join(TYPES)}")
        if max(numbers(self.horizons)) >= self.max_seq_len:
            raise ValueError(f"horizons is {self.horizons!r}; a row has only {self.max_seq_len} tokens (max_seq_len)")
        if self.total_batch_size % (self.max_seq_len * self.device_batch_size):
            raise ValueError(f"total_batch_size {self.total_batch_size} is not a multiple of max_seq_len × device_batch_size")
        if self.stage in ("all", "memory", "cost", "long") and not 0 < self.recent < self.budget:
            raise ValueError(
                f"recent is {self.recent}; it must leave something of the budget of {self.budget} entries (a quarter of max_seq_len)"
            )
        for root in self.search:
            if not root.is_dir():
                raise ValueError(f"invalid roots: {root} is not a folder")

    def home(self) -> Path:
        """Base folder of this bench, while `NANOCHAT_BASE_DIR` is the user's."""
        return Path(self.folder).expanduser().resolve() if self.folder else base_dir() / "mc_text"

    @property
    def search(self) -> list[Path]:
        """Folders of packages."""
        return [Path(root).resolve() for root in self.roots.split(os.pathsep)] if self.roots else installed_roots()

    @property
    def budget(self) -> int:
        """Entries of a Working Context before the decision point: W."""
        return self.max_seq_len // 4

    @property
    def steps(self) -> int:
        """Training steps."""
        return max(1, round(self.train_tokens / self.total_batch_size))

    @property
    def memory_steps(self) -> int:
        """Training steps with a memory."""
        return max(1, round(self.memory_tokens / self.total_batch_size)) if self.memory_tokens else self.steps

    @property
    def surveyed(self) -> str:
        """Name of the checkpoints of this setting without a memory and without a label."""
        return f"d{self.depth}-a{self.aspect_ratio}-t{self.max_seq_len}-{self.steps}x{self.total_batch_size}-{self.packing}"

    @property
    def tag(self) -> str:
        """Prefix of the stage's model tags."""
        return self.surveyed + (f"-{self.label}" if self.label else "")

    def memory_tag(self, gist: str, slots: int) -> str:
        """Tag of the model with a memory of gists of that type; `-mc` is added to it."""
        return f"{self.tag}-{gist}{slots}" + (f"-from{self.memory_steps}" if self.memory_tokens else "")

    def setting(self) -> dict[str, Any]:
        """Setting of the training, for the record."""
        keys = ("depth", "aspect_ratio", "head_dim", "max_seq_len", "vocab_size", "packing", "total_batch_size", "train_flags")
        keys += ("memory_flags", "recent") if self.stage in ("all", "memory", "cost", "long") else ()
        return {key: getattr(self, key) for key in keys} | {"steps": self.steps, "tokens": self.steps * self.total_batch_size}


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


@dataclass
class Bench:
    """Call with its configuration, its base folder, and its deadline by the monotonic clock."""

    config: McText
    home: Path
    deadline: float

    @property
    def corpus(self) -> Path:
        """Folder of the documents."""
        return self.home / "corpus"

    def late(self) -> bool:
        """True if the time is up."""
        return time.monotonic() > self.deadline

    def train(self, tag: str, steps: int, *memory: str) -> bool:
        """Trains until the run is finished (True) or the time is up (False). Raises `UserError` if it failed."""
        config, stored = self.config, f"{tag}-mc" if memory else tag
        if steps in CheckpointStore(base_dir() / "base_checkpoints" / stored).steps():
            return True
        if self.late():
            return False
        left = self.deadline - time.monotonic()
        options = {
            **{"depth": config.depth, "aspect-ratio": config.aspect_ratio, "head-dim": config.head_dim, "window-pattern": "L"},
            **{"max-seq-len": config.max_seq_len, "device-batch-size": config.device_batch_size, "num-iterations": steps},
            **{"total-batch-size": config.total_batch_size, "dataset": self.corpus, "packing": config.packing, "model-tag": tag},
            **{"eval-every": -1, "sample-every": -1, "log-every": max(1, steps // 100), "save-every": max(1, steps // 20)},
        }
        command = [
            sys.executable,
            "-m",
            "scripts.base_train",
            *(f"--{k}={v}" for k, v in options.items()),
            *memory,
            *config.train_flags.split(),
            *(self.memory_flags(memory) if memory else ()),
        ]
        print(f"training {stored}: {steps:,} steps, {left / 60:.1f} minutes left of this call", flush=True)
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(left)
        finally:  # the time is up, or this process was interrupted: it saves and ends
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_SECONDS)
        if process.returncode:
            raise UserError(f"base_train of {stored} ended with code {process.returncode}; see above")
        return steps in CheckpointStore(base_dir() / "base_checkpoints" / stored).steps()

    def memory_flags(self, flags: Sequence[str]) -> list[str]:
        """Further flags of a memory with `flags`."""
        return (self.config.memory_flags or MEMORY_FLAGS["--gistnet-type=layered" in flags]).split()

    def held_out(self, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
        """Rows int64 [N,T+1] of the validation documents, and the index of each one's document int64 [N]."""
        shards = open_tokens(open_source(str(self.corpus)), tokenizer, "val")
        rows, documents = rows_within_documents(shards, self.config.max_seq_len, self.config.eval_rows)
        print(
            f"measuring on {len(rows)} rows of {self.config.max_seq_len} tokens in {len(documents.unique())} held-out documents", flush=True
        )
        return rows, documents

    def batches(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and targets int64 [b,T]."""
        for batch in rows.split(self.config.device_batch_size):
            yield batch[:, :-1], batch[:, 1:]


def rows_within_documents(shards: TokenCache, seq_len: int, limit: int) -> tuple[Tensor, Tensor]:
    """Up to `limit` rows int64 [N,T+1], each within one document, spread evenly over all of them, and their documents' indices [N].

    Raises `UserError` if no document is long enough.
    """
    places: list[tuple[np.ndarray, int, int]] = []  # tokens of the document, first one of the row, number of the document
    for number, tokens in enumerate(documents(shards)):
        places += [(tokens, row * seq_len, number) for row in range((len(tokens) - 1) // seq_len)]
    if not places:
        raise UserError(f"{shards.name}: no document is as long as a row of {seq_len} tokens; use shorter rows or other packages (--roots)")
    chosen = [places[i] for i in np.linspace(0, len(places) - 1, min(limit, len(places))).round().astype(int)]
    rows = [tokens[begin : begin + seq_len + 1].astype(np.int64) for tokens, begin, _ in chosen]
    return torch.from_numpy(np.stack(rows)), torch.tensor([number for *_, number in chosen])


def documents(shards: TokenCache) -> Iterator[np.ndarray]:
    """Tokens [n] of each document, in order."""
    for shard in shards.shards:
        for begin, end in zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True):
            yield shard.tokens[begin:end]


def corpus_stage(bench: Bench) -> dict[str, Any]:
    """Collects the documents, trains the tokenizer and tokenizes, unless done before."""
    config = bench.config
    figures = write_corpus(bench.corpus, config.search)
    source = open_source(str(bench.corpus))
    if not (base_dir() / "tokenizer").exists():
        texts, read = [], 0
        for text in source.documents("train"):
            texts.append(text)
            read += len(text)
            if read > TOKENIZER_CHARS:
                break
        Tokenizer.train(texts, config.vocab_size).save(base_dir() / "tokenizer")
    tokenizer = load_tokenizer()
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"{base_dir() / 'tokenizer'} has {tokenizer.vocab_size} tokens, not {config.vocab_size}; give another --folder")
    for split in ("train", "val"):
        figures[split]["tokens"] = open_tokens(source, tokenizer, split).tokens
    print(f"corpus: {json.dumps({split: figures[split] for split in ('train', 'val')})}", flush=True)
    return {**figures, "vocab_size": tokenizer.vocab_size}
