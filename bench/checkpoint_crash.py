"""Crash and damage test of checkpoints: `python -m bench.checkpoint_crash`.

Three tests, counted in the JSON on the last line (`ok` and the exit code are the verdict): random SIGKILLs in and around saves, a
SIGKILL at every file operation of a save, and flipped bits and truncations. The saves that are killed go on in the background while
their process changes the tensors, as training does.
After each kill every visible checkpoint must be bit-exact, old or new, and nothing acknowledged may be lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat.checkpoint.background import BackgroundSaves
from nanochat.checkpoint.processes import ALONE
from nanochat.checkpoint.store import Checkpoint, CheckpointStore
from nanochat.common import UserError
from nanochat.flags import flag, parse, run

_FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree")


@dataclass
class CheckpointCrash:
    """Kill a process in and around saves and damage files; every load must be exact or refused."""

    kills: int = flag(200, "random kills", unit="processes")
    damages: int = flag(1000, "flipped bits and truncations", unit="files")
    seed: int = flag(0, "seed of the random choices")

    def __post_init__(self) -> None:
        if self.kills < 0 or self.damages < 0:
            raise ValueError("--kills and --damages count from 0")


def state(step: int, version: int) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, int]]:
    """Tensors and meta as a function of step and version."""
    g = torch.Generator().manual_seed(step * 1000 + version)
    model = {"w": torch.randn(512, 256, generator=g), "b": torch.randn(99, generator=g).bfloat16(), "scale": torch.tensor(0.5 + step)}
    return {"model": model, "optimizer": {"m": torch.randn(512, 256, generator=g), "step": torch.tensor(step)}}, {"version": version}


def exact(checkpoint: Checkpoint) -> bool:
    """True if a loaded checkpoint is, bit for bit, the state of its step and version."""
    tensors, meta = state(checkpoint.step, checkpoint.meta["version"])
    return checkpoint.meta == meta and all(
        checkpoint.tensors[group].keys() == named.keys() and all(checkpoint.tensors[group][name].equal(named[name]) for name in named)
        for group, named in tensors.items()
    )


def in_child(body: Callable[[int], None]) -> tuple[int, int]:
    """Runs `body(pipe)` in a forked process and returns (its id, the reading end). It never returns into the caller's code."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        try:
            body(writer)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    return pid, reader


def acknowledged(reader: int) -> tuple[int, int] | None:
    """The last (step, version) that a killed writer reported as durable."""
    with os.fdopen(reader, "rb") as f:
        data = f.read()
    data = data[: len(data) // 8 * 8]
    return struct.unpack("<ii", data[-8:]) if data else None


def survived(store: CheckpointStore, durable: tuple[int, int] | None) -> bool:
    """True if every visible checkpoint is exact and the newest is not older than `durable`."""
    loaded = [store.load(step) if store.verify(step) is None else None for step in store.steps()]
    if any(checkpoint is None or not exact(checkpoint) for checkpoint in loaded):
        return False
    newest = (loaded[-1].step, loaded[-1].meta["version"]) if loaded and loaded[-1] else None
    return durable is None or (newest is not None and newest >= durable)


class Writer:
    """Saves in the background; reports each save as durable to `pipe` when the next one begins."""

    def __init__(self, store: CheckpointStore, pipe: int) -> None:
        self.store, self.pipe, self.saves = store, pipe, BackgroundSaves(store, ALONE)

    def save(self, step: int, version: int) -> None:
        tensors, meta = state(step, version)
        snapshot = self.store.snapshot(step, tensors, meta)  # while the save before is written
        self.finish()
        self.saves.begin(snapshot)
        self.pending = struct.pack("<ii", step, version)
        for named in tensors.values():
            for tensor in named.values():
                tensor.zero_()

    def finish(self) -> None:
        ended = self.saves.wait()
        if ended is not None and ended.error is not None:
            raise ended.error
        if ended is not None:
            os.write(self.pipe, self.pending)


def random_kills(count: int, folder: Path, rng: random.Random) -> dict[str, int]:
    """Kills a process that saves step after step, each step twice, at random moments, and continues it."""
    store = CheckpointStore(folder, keep=2)
    began = time.perf_counter()
    store.save(0, *state(0, 0))
    period = time.perf_counter() - began
    failures = inside = 0
    durable: tuple[int, int] | None = (0, 0)
    for _ in range(count):
        first = store.steps()[-1]

        def write(pipe: int, first: int = first) -> None:
            version, writer = store.load(first).meta["version"], Writer(store, pipe)
            for step in range(first, first + 10_000):
                for v in (version + 1, version + 2):
                    writer.save(step, v)

        pid, reader = in_child(write)
        time.sleep(rng.uniform(0.0, 8 * period))
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] != signal.SIGKILL:
            raise RuntimeError("the writer ended before it was killed")
        inside += any(folder.glob(".step_*"))
        durable = acknowledged(reader) or durable
        failures += not survived(store, durable)
    return {"kills": count, "kills_inside_a_save": inside, "kill_failures": failures}


def kills_at_every_operation(folder: Path) -> dict[str, int]:
    """Kills a save at its first file operation, its second, … until one completes; for a new and for a replaced step."""
    failures = points = 0
    for replacing in (False, True):
        killed, number = True, 0
        while killed:
            place = folder / f"{replacing}-{number}"
            store = CheckpointStore(place, keep=1)
            store.save(1, *state(1, 0))
            step, version = (1, 1) if replacing else (2, 0)

            def write(pipe: int, store: CheckpointStore = store, step: int = step, version: int = version, left: int = number) -> None:
                writer = Writer(store, pipe)

                def hook(event: str, _: tuple[object, ...]) -> None:
                    nonlocal left
                    if event in _FILE_EVENTS:
                        if left == 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        left -= 1

                sys.addaudithook(hook)
                writer.save(step, version)
                writer.finish()

            pid, reader = in_child(write)
            status = os.waitpid(pid, 0)[1]
            if status not in (0, signal.SIGKILL):
                raise RuntimeError("the save that was to be killed failed")
            killed = status == signal.SIGKILL
            failures += not survived(store, acknowledged(reader) or (1, 0))
            store.save(3, *state(3, 0))
            failures += any(place.glob(".step_*.tmp")) or not survived(store, (3, 0))
            points += killed
            number += 1
    return {"crash_points": points, "crash_point_failures": failures}


def damages(count: int, folder: Path, rng: random.Random) -> dict[str, int]:
    """Flips one bit or truncates one file, `count` times; counts damages that still load, or hide the older checkpoint."""
    store = CheckpointStore(folder, keep=2)
    for step in (1, 2):
        store.save(step, *state(step, 0))
    files = sorted((folder / "step_0000002").iterdir())
    silent = not_fallen_back = 0
    for _ in range(count):
        path = rng.choice(files)
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        damaged = bytearray(whole[:place]) if rng.random() < 0.25 else bytearray(whole)
        if len(damaged) == len(whole):
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            store.load(2)
            silent += 1
        except UserError:
            pass
        silent += store.verify(2) is None
        newest = store.load_newest(say=lambda text: None)
        not_fallen_back += newest is None or newest.step != 1
        path.write_bytes(whole)
    whole_again = store.verify(2) is None and exact(store.load(2))
    return {"damages": count, "silent_loads": silent, "not_fallen_back": not_fallen_back + (not whole_again)}


def main(argv: list[str] | None = None) -> int:
    config = parse(CheckpointCrash, argv)
    torch.set_num_threads(1)
    rng = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, int | bool] = dict(random_kills(config.kills, Path(folder) / "kills", rng))
        print(f"{config.kills} random kills done", flush=True)
        result |= kills_at_every_operation(Path(folder) / "points")
        print(f"{result['crash_points']} kills at file operations done", flush=True)
        result |= damages(config.damages, Path(folder) / "damages", rng)
    failures = ("kill_failures", "crash_point_failures", "silent_loads", "not_fallen_back")
    result["ok"] = not any(result[name] for name in failures)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)
