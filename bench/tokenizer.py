"""Training and encoding speed of the tokenizer and its rivals: `python -m bench.tokenizer`. The last line is JSON.

All get the same text, in turns; medians count. PyPI's rustbpe and tokenizers are installed into a temporary folder. Then 10 MB of
one character class each, which must take four times as long as 2.5 MB, not sixteen times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np

from nanochat.common import UserError
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.tokenizer import PATTERN, SPECIAL_TOKENS, Tokenizer
from nanochat.flags import flag, parse, part, run

T = TypeVar("T")

TRAINERS = ("rustbpe", "tokenizers")
SINGLE_CLASS_CHARS = 10_000_000
CLASSES = {
    "one letter": "a",
    "letters": "abcdefghijklmnopqrstuvwxyz",
    "digits": "0123456789",
    "symbols": "!?#$%&()*+,-./",
    "spaces": " ",
    "white space": " \t\n",
}


@dataclass
class TokenizerBench:
    """Measure the tokenizer against rustbpe and tokenizers (training) and tiktoken (encoding)."""

    data: DataFlags = part(DataFlags)
    mb: int = flag(15, "size of the text", unit="MB")
    vocab_size: int = flag(8192, "vocabulary size to train", unit="tokens")
    runs: int = flag(5, "turns of each; the median counts")
    single_class: bool = flag(True, "also measure 10 MB of single character classes")

    def __post_init__(self) -> None:
        for name in ("mb", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def main(argv: list[str] | None = None) -> int:
    config = parse(TokenizerBench, argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_BASE_DIR"] = folder
        texts = _texts(config)
        result: dict[str, object] = {"mb": round(_megabytes(texts), 1), "cores": os.cpu_count()}
        result |= compare_training(texts, config, Path(folder))
        result |= compare_encoding(texts, config)
        if config.single_class:
            result |= measure_single_classes()
    print(json.dumps(result))
    return 0


def compare_training(texts: list[str], config: TokenizerBench, folder: Path) -> dict[str, float | None]:
    """Training speeds; a ratio is null if pip could not install the rival."""
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    seconds: dict[str, list[float]] = {"ours": []}
    with _rival("rustbpe", config, folder) as rustbpe, _rival("tokenizers", config, folder) as tokenizers:
        rivals = {name: train for name, train in zip(TRAINERS, (rustbpe, tokenizers), strict=True) if train is not None}
        for _ in range(config.runs):
            seconds["ours"].append(_timed(lambda: Tokenizer.train(texts, config.vocab_size))[0])
            for name, train in rivals.items():
                seconds.setdefault(name, []).append(train())
    rates = {name: _megabytes(texts) / statistics.median(taken) for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"train {name:12} {rate:8.1f} MB/s   runs: {' '.join(f'{s:.3f}' for s in seconds[name])} s", flush=True)
    ratios = {f"train_vs_{name}": round(rates["ours"] / rates[name], 2) if name in rates else None for name in TRAINERS}
    return {"train_mb_per_s": round(rates["ours"], 1), **ratios}


def compare_encoding(texts: list[str], config: TokenizerBench) -> dict[str, float | bool]:
    """Encoding speeds with BOS against `encode_ordinary_batch` without it, and whether the ids are the same."""
    tokenizer = Tokenizer.train(texts, config.vocab_size)
    encoding = tokenizer.to_tiktoken()
    seconds: dict[str, list[float]] = {"ours": [], "tiktoken": []}
    for _ in range(config.runs):
        ours_s, (ids, offsets) = _timed(lambda: tokenizer.encode_bulk(texts))
        theirs_s, lists = _timed(lambda: encoding.encode_ordinary_batch(texts))
        seconds["ours"].append(ours_s)
        seconds["tiktoken"].append(theirs_s)
    expected = np.array([i for own in lists for i in (tokenizer.bos_id, *own)], tokenizer.dtype)
    ends = np.cumsum([len(own) + 1 for own in lists])
    equal = bool(np.array_equal(ids, expected) and np.array_equal(offsets[1:], ends))
    rates = {name: _megabytes(texts) / statistics.median(taken) for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"encode {name:11} {rate:8.1f} MB/s   runs: {' '.join(f'{s:.3f}' for s in seconds[name])} s", flush=True)
    ratio = round(rates["ours"] / rates["tiktoken"], 2)
    return {"encode_mb_per_s": round(rates["ours"], 1), "encode_vs_tiktoken": ratio, "ids_equal": equal}


def measure_single_classes() -> dict[str, float]:
    """Seconds for 10 MB of the slowest class, and the largest ratio to the time of a quarter of it (4 is linear)."""
    slowest = {"train": 0.0, "encode": 0.0}
    growth = 0.0
    for name, alphabet in CLASSES.items():
        few, many = (_train_and_encode(alphabet, chars) for chars in (SINGLE_CLASS_CHARS // 4, SINGLE_CLASS_CHARS))
        for work in slowest:
            slowest[work] = max(slowest[work], many[work])
        growth = max(growth, sum(many.values()) / max(sum(few.values()), 0.1))
        print(
            f"10 MB of {name:12} train {many['train']:.2f} s, encode {many['encode']:.2f} s; 2.5 MB: {sum(few.values()):.2f} s", flush=True
        )
    seconds = {f"single_class_{work}_s": round(value, 2) for work, value in slowest.items()}
    return {**seconds, "single_class_growth": round(growth, 1)}


def _train_and_encode(alphabet: str, chars: int) -> dict[str, float]:
    letters = np.frombuffer(alphabet.encode(), np.uint8)
    text = letters[np.random.default_rng(0).integers(0, len(letters), chars)].tobytes().decode()
    vocab_size = 256 + len(SPECIAL_TOKENS) + 20  # what every one of these texts has pairs for
    train_s, tokenizer = _timed(lambda: Tokenizer.train([text], vocab_size))
    encode_s, _ = _timed(lambda: tokenizer.encode_bulk([text]))
    return {"train": train_s, "encode": encode_s}


@contextmanager
def _rival(name: str, config: TokenizerBench, folder: Path) -> Iterator[Callable[[], float] | None]:
    """Function that trains once in a process with the library `name` and returns the seconds; None if it cannot be installed."""
    target = folder / name
    # An environment made by uv has no pip.
    installer = [sys.executable, "-m", "pip"] if find_spec("pip") else ["uv", "pip"]
    installed = subprocess.run([*installer, "install", "--quiet", "--target", str(target), name], capture_output=True, text=True)
    if installed.returncode:
        print(f"{name}: not here (pip install {name} failed: {installed.stderr.strip().splitlines()[-1]})")
        yield None
        return
    worker = Path(__file__).with_name("tokenizer_rival.py")
    arguments = [name, str(folder / "texts.json"), str(config.vocab_size - len(SPECIAL_TOKENS)), PATTERN]
    environment = {**os.environ, "PYTHONPATH": str(target), "TOKENIZERS_PARALLELISM": "true"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(worker), *arguments], env=environment, **pipes) as process:

        def train() -> float:
            process.stdin.write("train\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise UserError(f"{name} stopped while it trained; see its message above")
            return float(answer)

        yield train
        process.stdin.close()


def _texts(config: TokenizerBench) -> list[str]:
    """The first documents of the training split, up to `config.mb`."""
    texts: list[str] = []
    size = 0
    for text in open_source(config.data.dataset, config.data.text_column).documents("train"):
        texts.append(text)
        size += len(text.encode())
        if size >= config.mb * 1_000_000:
            break
    return texts


def _megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    run(main)
