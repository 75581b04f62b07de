"""Kill and damage test of sessions on disk: `python -m bench.session_files`.

A process appends, saves and forks, and is killed at random moments; every reopened session must have, bit for bit, at least each
block whose append had returned. Then files are truncated and bytes flipped at random: opening must report it and name the token,
and repairing must keep everything before it. The last line is JSON; `ok` and the exit code are the verdict.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.checkpoint_crash import in_child
from mc.layout.layout import Geometry
from mc.session.disk_tree import DiskTree
from mc.session.files import delete_session, list_sessions
from mc.session.tree import TreeSpec
from nanochat.common import UserError
from nanochat.flags import flag, parse, run

MANIFEST = {"model": "bench", "tokenizer": "random"}
SPEC = TreeSpec(width=256, geometry=Geometry(32), max_lod=4, dtype=torch.bfloat16, value_width=512, vocab_size=8192)
TINY = TreeSpec(8, Geometry(4, 2), max_lod=4, dtype=torch.bfloat16, value_width=0, vocab_size=300, gists="layered")
VALUES = TreeSpec(width=4, geometry=Geometry(8, 2), max_lod=5, dtype=torch.float16, value_width=8, vocab_size=100_000)
WORLD_TOKENS = {TINY: 60_000, VALUES: 120_000}
MILLION = 1_000_000
_REPORT = struct.Struct("<qqq")  # number of the session, its tokens, those of them that are saved


@dataclass
class SessionFiles:
    """Kill a process that writes sessions and damage their files; nothing may be lost or silently wrong."""

    kills: int = flag(200, "random kills", unit="processes")
    damages: int = flag(200, "flipped bytes and truncations", unit="files")
    seed: int = flag(0, "seed of the random choices")

    def __post_init__(self) -> None:
        if self.kills < 0 or self.damages < 0:
            raise ValueError("--kills and --damages count from 0")


class World:
    """Random contents that every session of a spec has a prefix of."""

    def __init__(self, spec: TreeSpec, length: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.spec, self.length = spec, length
        self.tokens = torch.randint(spec.vocab_size, (length,), generator=generator)

        def draw(level: int, width: int) -> Tensor:
            shape = (length // spec.geometry.span(level), spec.geometry.slots, width)
            return torch.randn(shape, generator=generator).to(spec.dtype)

        self.gists = [draw(level, spec.width) for level in range(1, spec.max_lod + 1)]
        self.values = [draw(level, spec.value_width) for level in spec.value_levels]

    def append(self, tree: DiskTree, size: int) -> None:
        """Appends the next `size` tokens and the nodes they complete."""
        begin, spans = tree.length, [self.spec.geometry.span(level) for level in range(1, self.spec.max_lod + 1)]
        end = begin + size
        gists = [rows[begin // span : end // span] for rows, span in zip(self.gists, spans, strict=True)]
        spans = spans[self.spec.stored_values_from - 1 :]
        values = [rows[begin // span : end // span] for rows, span in zip(self.values, spans, strict=True)]
        tree.append(self.tokens[begin:end], gists, values)

    def is_in(self, tree: DiskTree) -> bool:
        """True if `tree` is, bit for bit, a beginning of this."""
        same = torch.equal(tree.tokens(0, tree.length), self.tokens[: tree.length])
        for level, rows in enumerate(self.gists, 1):
            nodes = tree.nodes(level)
            same &= nodes == tree.length // self.spec.geometry.span(level)
            same &= torch.equal(_bits(tree.gists(level, torch.arange(nodes))), _bits(rows[:nodes]))
        for level, rows in zip(self.spec.value_levels, self.values, strict=True):
            nodes = tree.nodes(level)
            same &= torch.equal(_bits(tree.values(level, torch.arange(nodes))), _bits(rows[:nodes]))
        return same


def _bits(rows: Tensor) -> Tensor:
    return rows.contiguous().view(torch.uint8)


def die_while_writing(rng: random.Random) -> None:
    """Makes this process kill itself in one of its next writes to files, after any part of it."""
    write, left = os.pwrite, rng.randrange(1, 60)

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            write(file, data[: rng.randrange(len(data) + 1)], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, offset)

    os.pwrite = pwrite


def write_sessions(root: Path, world: World, seed: int, alone: bool) -> Callable[[int], None]:
    """Body of the process that is killed: appends to the newest session in `root`; half of them also save and fork it.

    If `alone`, it kills itself in a write, which kills from outside rarely hit.
    """

    def body(pipe: int) -> None:
        rng = random.Random(seed)
        saving = rng.random() < 0.5  # which takes most of the time, and so of the kills
        if alone:
            die_while_writing(rng)
        number = max(int(info.name) for info in list_sessions(root))
        tree = DiskTree.open(root / str(number), MANIFEST)
        saved = tree.length
        while True:
            os.write(pipe, _REPORT.pack(number, tree.length, saved))
            chance, size = rng.random(), rng.choice((1, 3, 32, 40, 1000, 7000))
            if tree.length + size > world.length:
                number += 1
                tree.close()
                tree = DiskTree.create(root / str(number), MANIFEST, world.spec)
                saved = 0
            elif saving and chance < 0.05:
                number += 1
                fork = tree.fork(root / str(number))
                tree.close()
                tree, saved = fork, fork.length
            elif saving and chance < 0.2:
                tree.save()
                saved = tree.length
            else:
                world.append(tree, size)

    return body


def reported(reader: int) -> dict[int, tuple[int, int]]:
    """(tokens, saved tokens) of each session in the last report of a killed writer."""
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    whole = data[: len(data) // _REPORT.size * _REPORT.size]
    return {number: (tokens, saved) for number, tokens, saved in _REPORT.iter_unpack(whole)}


def random_kills(count: int, root: Path, rng: random.Random) -> dict[str, int]:
    """Kills a writer `count` times, each continuing the newest session of the previous ones."""
    totals = {"kills": count, "sessions": 0, "lost": 0, "wrong": 0, "torn": 0, "half_made": 0}
    places = [(root / str(spec.width), World(spec, length)) for spec, length in WORLD_TOKENS.items()]
    for place, world in places:
        DiskTree.create(place / "0", MANIFEST, world.spec).close()
    for _ in range(count):
        place, world = rng.choice(places)
        alone = rng.random() < 0.5
        pid, reader = in_child(write_sessions(place, world, rng.randrange(1 << 30), alone))
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the kill
        if not alone:
            time.sleep(rng.uniform(0.0, 0.25))
            os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] != signal.SIGKILL:
            raise RuntimeError("the writer ended before it was killed")
        for name, value in after_kill(place, world, reported(reader)).items():
            totals[name] += value
    return totals


def after_kill(place: Path, world: World, reports: dict[int, tuple[int, int]]) -> dict[str, int]:
    """Opens all sessions in `place` and compares them with the `reports`; the newest one is left for the next writer."""
    names = sorted((info.name for info in list_sessions(place)), key=int)
    found = {"sessions": len(names), "lost": sum(str(number) not in names for number in reports), "wrong": 0, "torn": 0, "half_made": 0}
    K = world.spec.geometry.block_size
    for name in names:
        tree = DiskTree.open(place / name, MANIFEST, spec=world.spec)
        tokens, saved = reports.get(int(name), (0, 0))
        found["lost"] += tree.length // K < tokens // K or tree.length < saved
        found["wrong"] += not world.is_in(tree)
        found["torn"] += tree.cut > 0
        tree.close()
    for name in names[:-1]:
        delete_session(place, name)
    for path in place.iterdir():  # a session that was being made: there is none yet, and nothing in its way
        if path.name not in names:
            DiskTree.create(path, MANIFEST, world.spec).close()
            delete_session(place, path.name)
            found["half_made"] += 1
    return found


def damage(path: Path, rng: random.Random) -> None:
    """Truncates a file, or changes one byte of it."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.4:
        del data[place:]
    else:
        data[place] ^= rng.randrange(1, 256)
    path.write_bytes(data)


def random_damages(count: int, root: Path, rng: random.Random) -> dict[str, int]:
    """Damages one file of a copy of a session, `count` times; damage that still opens, or is repaired wrongly, is silent."""
    sessions: dict[TreeSpec, World] = {}
    for spec in (TINY, VALUES):
        sessions[spec] = World(spec, WORLD_TOKENS[spec])
        tree = DiskTree.create(root / f"whole{spec.width}", MANIFEST, spec)
        sessions[spec].append(tree, sessions[spec].length - rng.randrange(1, 300))
        tree.close()
    detected = silent = repaired = 0
    for number in range(count):
        spec = rng.choice((TINY, VALUES))
        folder = root / "copy"
        shutil.copytree(root / f"whole{spec.width}", folder)
        files = sorted(path for path in folder.iterdir() if path.name != "lock" and path.stat().st_size)
        victim = files[number % len(files)]
        damage(victim, rng)
        try:
            DiskTree.open(folder, MANIFEST).close()
        except UserError as error:
            said = re.search(r"keeps ([\d,]+) tokens", str(error))
            named = victim.name in str(error) or victim.name == "manifest.json"
            detected += named
            silent += not named
        else:
            said, silent = None, silent + 1
        if said:
            tree = DiskTree.open(folder, MANIFEST, repair=True)
            exact = tree.length == int(said[1].replace(",", "")) and sessions[spec].is_in(tree)
            sessions[spec].append(tree, 100)
            tree.close()
            tree = DiskTree.open(folder, MANIFEST, spec=spec)
            exact &= sessions[spec].is_in(tree)
            tree.close()
            repaired += exact
            silent += not exact
        shutil.rmtree(folder)
    return {"damages": count, "detected": detected, "repaired": repaired, "silent": silent}


def figures(root: Path) -> dict[str, float]:
    """Size and speed of a session of a million tokens, at the width of the CPU demo."""
    world = World(SPEC, MILLION)
    tree = DiskTree.create(root / "million", MANIFEST, SPEC)
    began = time.perf_counter()
    while tree.length + 2048 <= MILLION:
        world.append(tree, 2048)
    world.append(tree, MILLION - tree.length)
    bulk = MILLION / (time.perf_counter() - began)
    tree.close()
    size = sum(path.stat().st_size for path in (root / "million").iterdir())
    allowed = 2 + SPEC.width * 2 * sum(32.0**-level for level in range(1, SPEC.max_lod + 1))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        DiskTree.open(root / "million", MANIFEST).close()
        seconds.append(time.perf_counter() - began)
    tree = DiskTree.create(root / "decode", MANIFEST, SPEC)
    began = time.perf_counter()
    for _ in range(20_000):
        world.append(tree, 1)
    return {
        "bytes_per_token_ratio": round(size / MILLION / allowed, 5),
        "open_1m_tokens_seconds": round(median(seconds), 4),
        "append_tokens_per_second": round(bulk),
        "append_one_token_us": round((time.perf_counter() - began) / 20_000 * 1e6, 1),
    }


def main(argv: list[str] | None = None) -> int:
    config = parse(SessionFiles, argv)
    torch.set_num_threads(1)
    rng = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, float | bool] = dict(random_kills(config.kills, Path(folder) / "kills", rng))
        print(f"{config.kills} kills done: {json.dumps(result)}", flush=True)
        result |= random_damages(config.damages, Path(folder) / "damages", rng)
        print(f"{config.damages} damages done", flush=True)
        result |= figures(Path(folder) / "figures")
    result["ok"] = not (result["lost"] or result["wrong"] or result["silent"])
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)
