"""Kill and stop test of training: `python -m bench.resume_crash`.

A tiny base model is trained repeatedly by real processes that get SIGKILL at a random point, or SIGTERM while starting, warming
up, training, evaluating, saving or sampling. Each run is then finished and compared with an uninterrupted one: weights, optimizer
state, random generators and metrics must be bit-identical.

Then runs in several processes, without and with a memory, are interrupted and finished by every other number of processes. With the
same number all must be bit-identical again, with another one rows and layouts, and losses but for the order of sums.
The last line is JSON; `ok` and the exit code are the verdict.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.tiny_run import TAG, Home, make_corpus, new_home
from bench.warm_start import Process, WarmStart
from nanochat.flags import flag, parse, run

STEPS, SAVE, EVALUATE, WARMUP = 32, 4, 8, 6
FLAGS = (
    f"--num-iterations={STEPS}", f"--save-every={SAVE}", f"--eval-every={EVALUATE}", f"--sample-every={EVALUATE}",
    f"--warmup-steps={WARMUP}", "--eval-tokens=8192", "--keep-checkpoints=-1",
)  # fmt: skip
PATIENCE = 600.0  # seconds, for several processes on a busy machine
LAST_SIGNAL = STEPS - SAVE  # later a run could end before the signal comes
MEMORY = (
    "--mc", "--max-seq-len=128", "--device-batch-size=1", "--block-size=8", "--mc-num-random-variants=2", "--mc-lens-every=1",
    "--mc-auto-batch=0", "--eval-tokens=1024",
)  # fmt: skip
# Figures that follow from the numbers of rows and micro-batches, and those that the order of sums changes, with what it changes at most.
NUMBERED = (
    "step", "train/data_hash", "train/epoch", "train/lrm", "mc/N_allocated", "mc/N_deduped", "mc/N_recency", "mc/N_siblings",
    "mc/variant_width", "mc/variants_total",
)  # fmt: skip
SUMMED, ROUNDING = ("train/loss", "val/bpb", "mc/token_loss"), 1e-2


@dataclass
class ResumeCrash:
    """Kill and stop training processes; each must continue as if nothing had happened."""

    kills: int = flag(20, "number of processes that get SIGKILL", unit="processes")
    stops: int = flag(50, "number of processes that get SIGTERM", unit="processes")
    processes: str = flag("1,2,3", "numbers of processes that runs are interrupted and finished with, each with each")
    changes: int = flag(2, "interruptions for each two numbers of processes, by SIGKILL and SIGTERM in turn", unit="runs")
    dtype: Literal["fp32", "bf16", "fp16"] = flag("fp32", "compute dtype")
    seed: int = flag(0, "seed of the random moments")

    def __post_init__(self) -> None:
        if min(self.kills, self.stops, self.changes) < 0:
            raise ValueError("kills, stops and changes count from 0")
        if not all(count.isdecimal() and int(count) > 0 for count in self.processes.split(",")):
            raise ValueError(f"processes is {self.processes!r}; it must be numbers with commas, such as 1,2,3")
        if self.dtype == "fp16" and self.changes and max(self.counts) > 1:
            raise ValueError("fp16 runs in one process; give --changes 0 or --processes 1")

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of processes."""
        return tuple(map(int, self.processes.split(",")))


@dataclass
class Lab:
    """Starts runs and compares them with `whole`."""

    whole: Home
    folder: Path
    environment: dict[str, str]
    rng: random.Random

    def home(self) -> Home:
        """Empty base folder; the previous one is deleted."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return new_home(self.folder, self.whole.corpus, self.whole.warm)

    def start(self, home: Home) -> Process:
        """Starts a run."""
        return home.start(*FLAGS, environment=self.environment)

    def continues_exactly(self, home: Home) -> bool:
        """Finishes the run; True if everything is as in the whole run."""
        process = self.start(home)
        if process.wait(PATIENCE) != 0:
            print(f"the continued run ended with {process.code}: {process.stderr}", flush=True)
            return False
        return home.figures() == self.whole.figures() and home.tensors(STEPS) == self.whole.tensors(STEPS)

    def kill(self, number: int, of: int) -> bool:
        """Kills a run at a random moment after a step, with the steps spread over the run; True if it continues exactly."""
        home = self.home()
        process = self.start(home)
        step = 1 + number * LAST_SIGNAL // of
        process.until(lambda: home.logged(step), PATIENCE)
        time.sleep(self.rng.uniform(0, 0.05))
        process.signal(signal.SIGKILL)
        process.wait(PATIENCE)
        return self.continues_exactly(home)

    def stop(self, moment: Callable[[Home, random.Random], Callable[[Process], bool]]) -> tuple[bool, bool, float]:
        """Stops a run at `moment`: whether it saved and reported that, whether it continues exactly, and the seconds to stop."""
        home = self.home()
        process = self.start(home)
        reached = moment(home, self.rng)
        process.until(lambda: reached(process), PATIENCE)
        process.signal(signal.SIGTERM)
        begin = time.monotonic()
        process.wait(PATIENCE)
        seconds = time.monotonic() - begin
        said = f"stopped by SIGTERM after step {max(home.saved_steps(), default=-1)} of {STEPS}" in process.stdout
        return process.code == 0 and said, self.continues_exactly(home), seconds


@dataclass
class Counts:
    """Interrupts runs in some number of processes and finishes them in another."""

    lab: Lab
    counts: tuple[int, ...]
    memory: bool
    wholes: dict[int, Home] = field(default_factory=dict)  # runs that nothing interrupts, by number of processes

    def __post_init__(self) -> None:
        tokens = 128  # of a micro-batch
        self.flags = (*FLAGS, f"--total-batch-size={tokens * math.lcm(*self.counts)}", *(MEMORY if self.memory else ()))
        for count in self.counts:
            home = self._named(new_home(self.lab.folder.parent / f"{count}{self.memory}", self.lab.whole.corpus, self.lab.whole.warm))
            assert self._finishes(home, count)
            self.wholes[count] = home

    def change(self, before: int, after: int, kill: bool) -> bool:
        """Interrupts a run at a random step after its first checkpoint; True if it is finished as promised."""
        home, step = self._named(self.lab.home()), self.lab.rng.randrange(SAVE + 1, LAST_SIGNAL)
        processes = home.start_group(before, *self.flags, environment=self.lab.environment)
        processes[0].until(lambda: home.logged(step), PATIENCE)
        for process in processes if kill else processes[-1:]:  # a stop of one stops all
            process.signal(signal.SIGKILL if kill else signal.SIGTERM)
        codes = [process.wait(PATIENCE) for process in processes]
        if not kill and (any(codes) or max(home.saved_steps(), default=0) < step):
            return False
        return self._finishes(home, after) and (self._is_same if before == after else self._is_like)(home, self.wholes[after])

    def _named(self, home: Home) -> Home:
        return replace(home, tag=f"{TAG}-mc") if self.memory else home

    def _finishes(self, home: Home, count: int) -> bool:
        processes = home.start_group(count, *self.flags, environment=self.lab.environment)
        return [process.wait(PATIENCE) for process in processes] == [0] * count

    def _is_same(self, home: Home, whole: Home) -> bool:
        return _untimed(home) == _untimed(whole) and home.tensors(STEPS) == whole.tensors(STEPS)

    def _is_like(self, home: Home, whole: Home) -> bool:
        mine, theirs = _untimed(home), _untimed(whole)
        differing = [
            f"{key} {a.get(key)} in place of {b.get(key)} at step {b['step']}"
            for a, b in zip(mine, theirs, strict=False)
            for key in sorted(a.keys() | b.keys())
            if (key in a) != (key in b)
            or (key in NUMBERED and a[key] != b[key])
            or (key in SUMMED and not math.isclose(a[key], b[key], rel_tol=ROUNDING))
        ]
        if differing:
            print(differing[0], flush=True)
        return len(mine) == len(theirs) and not differing


def _untimed(home: Home) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if not key.endswith("_ms")} for record in home.figures()]


def start_up(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """Before the first step."""
    said = rng.choice(["attention", "tokenizing", "packed", "parameters"])  # in the order of their lines
    return lambda process: said in process.stdout


def warm_up(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """While the learning rates rise."""
    step = rng.randrange(1, WARMUP)
    return lambda process: home.logged(step)


def training(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """At any step after the warm-up."""
    step = rng.randrange(WARMUP, LAST_SIGNAL)
    return lambda process: home.logged(step)


def evaluation(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """Between the record of a step and that of its evaluation."""
    step = rng.randrange(EVALUATE, LAST_SIGNAL, EVALUATE)
    return lambda process: home.logged(step)


def save(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """While a checkpoint is written, or at the next step if that moment is missed."""
    step = rng.randrange(SAVE, LAST_SIGNAL, SAVE)
    return lambda process: home.logged(step - 1) and (any(home.checkpoints.glob(".step_*.tmp")) or step in home.saved_steps())


def sample(home: Home, rng: random.Random) -> Callable[[Process], bool]:
    """After an evaluation, while the model samples."""
    step = rng.randrange(EVALUATE, LAST_SIGNAL, EVALUATE)
    return lambda process: home.logged(step, "val/bpb")


MOMENTS = (start_up, warm_up, training, evaluation, save, sample)


def main(argv: list[str] | None = None) -> int:
    """Runs all trials, prints each failure and one line of JSON."""
    config = parse(ResumeCrash, argv)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, WarmStart() as warm:
        folder = Path(name)
        whole = new_home(folder / "whole", make_corpus(folder), warm)
        lab = Lab(whole, folder / "run", {"NANOCHAT_DTYPE": config.dtype}, random.Random(config.seed))
        process = lab.start(whole)
        assert process.wait(PATIENCE) == 0, process.stderr
        killed = sum(lab.kill(number, config.kills) for number in range(config.kills))
        print(f"{config.kills} kills: {killed} exact", flush=True)
        saved, exact, slowest = Counter[str](), 0, 0.0
        for number in range(config.stops):
            moment = MOMENTS[number % len(MOMENTS)]
            was_saved, was_exact, seconds = lab.stop(moment)
            saved[moment.__name__] += was_saved
            exact += was_exact
            slowest = max(slowest, seconds)
            if not (was_saved and was_exact):
                print(f"SIGTERM {number} in {moment.__name__}: saved {was_saved}, exact {was_exact}", flush=True)
        kept = {}
        for memory in (False, True) if config.changes else ():
            counts = Counts(lab, config.counts, memory)
            for before, after in itertools.product(config.counts, repeat=2):
                name = f"{before}→{after}{' mc' * memory}"
                kept[name] = sum(counts.change(before, after, kill=number % 2 == 0) for number in range(config.changes))
                print(f"{name}: {kept[name]} of {config.changes}", flush=True)
    result: dict[str, Any] = {
        "kill9_exact": f"{killed}/{config.kills}",
        "sigterm_saved": f"{saved.total()}/{config.stops}",
        "sigterm_exact": f"{exact}/{config.stops}",
        "sigterm_saved_in": dict(saved),
        "slowest_stop_s": round(slowest, 2),
        **{f"processes_{name}": f"{count}/{config.changes}" for name, count in kept.items()},
        "dtype": config.dtype,
        "seconds": round(time.monotonic() - begin, 1),
        "ok": killed == config.kills and saved.total() == exact == config.stops and set(kept.values()) <= {config.changes},
    }
    print(json.dumps(result, ensure_ascii=False))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)
