"""What the parts work with: device, data that are made up on the spot, and training processes."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.acceptance.cold_start import ColdStart
from bench.tiny_run import Home, make_corpus, write_corpus
from bench.warm_start import Process, WarmStart
from nanochat.common import UserError
from nanochat.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer

VOCABULARY, TOY_VOCABULARY = 32768, 300
LONG = "--num-iterations=5000"  # short runs have higher learning rates, at which small differences grow
TEXTS = 3000  # of about 600 letters: some 300 rows of 2048 tokens


@dataclass
class Lab:
    """Surroundings of a part. At toy size everything runs on a CPU, with some fifty thousand parameters."""

    toy: bool
    work: Path
    stack: ExitStack  # ends the processes

    @property
    def device_type(self) -> str:
        """Device of the parts."""
        return "cpu" if self.toy else "cuda"

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the tokenizer."""
        return TOY_VOCABULARY if self.toy else VOCABULARY

    @cached_property
    def starter(self) -> WarmStart:
        """Starts processes: forks of one that has imported torch at toy size, new interpreters on a GPU."""
        return self.stack.enter_context(WarmStart() if self.toy else ColdStart())

    @cached_property
    def corpus(self) -> Path:
        """A corpus of made-up words, with a tokenizer next to it."""
        folder = self.work / "data"
        if not (folder / "tokenizer").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            if self.toy:
                make_corpus(folder)
            else:  # pairs of bytes: nothing to learn, and a vocabulary of the usual size
                write_corpus(folder / "corpus", train=TEXTS)
                pairs = [(first, second) for first in range(256) for second in range(256)]
                Tokenizer(pairs[: VOCABULARY - MIN_VOCAB_SIZE]).save(folder / "tokenizer")
        return folder / "corpus"

    def home(self, tag: str) -> Home:
        """The common base folder, without a run named `tag`."""
        base = self.work / "base"
        if not (base / "tokenizer").is_dir():
            shutil.copytree(self.corpus.parent / "tokenizer", base / "tokenizer")
        home = Home(base, self.corpus, self.starter, tag)
        for folder in (home.checkpoints, home.metrics_file.parent):
            shutil.rmtree(folder, ignore_errors=True)
        return home

    def flags(self, tag: str, full: tuple[str, ...], toy: tuple[str, ...] = ()) -> list[str]:
        """Flags of base_train for this size: those of `bench.tiny_run`, then `toy` on a CPU, or `full` on a GPU."""
        sizes = toy if self.toy else ("--compile=1", "--aspect-ratio=64", "--head-dim=128", *full)
        return [f"--model-tag={tag.removesuffix('-mc')}", f"--device-type={self.device_type}", *sizes]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of training processes, whose precision is the device's own on a GPU."""
        return {} if self.toy else {"NANOCHAT_DTYPE": ""}

    def train(self, home: Home, flags: list[str], last_step: int) -> Process:
        """Runs base_train until it has logged `last_step`."""
        process = home.start(*flags, LONG, environment=self.environment)
        self.kill_after(process, home, last_step)
        return process

    def kill_after(self, process: Process, home: Home, last_step: int) -> None:
        """Kills a run that has logged `last_step`: the checkpoint at its end would take time that tells nothing."""
        self.wait(process, lambda: home.logged(last_step))
        process.signal(signal.SIGKILL)
        process.wait()

    def wait(self, process: Process, reached: Callable[[], bool]) -> None:
        """Waits until `reached()`. Raises `UserError` with the last line of a process that ends before."""
        try:
            process.until(reached, math.inf)  # the part has a limit
        except AssertionError as error:
            print(error, flush=True)
            raise UserError(f"a process ended with {process.code}: {last_line(process.stderr)}") from error

    def finish(self, process: Process) -> None:
        """Waits for the end of a process. Raises `UserError` if it fails."""
        self.wait(process, lambda: process.poll() is not None)
        if process.code:
            print(process.stdout, process.stderr, flush=True)
            raise UserError(f"a process ended with {process.code}: {last_line(process.stderr)}")


def last_line(text: str) -> str:
    """The last line of `text` that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed no error")
