"""Kill test of sessions while reading, decoding and refocusing: `python -m bench.session_crash`.

A process continues a session on disk, with prompts and single tokens through a cache, and is killed at random moments. Every
reopened session must be legal, have every committed block, and have the gists of its tokens. The last line is JSON; `ok` and the
exit code are the verdict. `bench.session_files` does the same to the files alone, and damages them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.checkpoint_crash import in_child
from mc.config import AllocatorConfig, MCConfig, SessionConfig
from mc.layout.layout import check
from mc.memory_model import MemoryModel
from mc.nets.gist_bank import BankShape, build
from mc.nets.gistnet import GistConfig
from mc.session.base_session import Session
from mc.session.layered_session import LayeredSession
from mc.session.store import SessionStore
from nanochat.flags import check_choices, flag, parse, run
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.model.gpt import GPT, GPTConfig

IDENTITY = {"model": "bench", "weights": "0", "tokenizer": "0"}
SHAPE = GPTConfig(depth=2, aspect_ratio=32, head_dim=32, max_seq_len=512, vocab_size=300, window_pattern="L")
MEMORY = MCConfig(block_size=8, allocator_recent_tokens=8, mc_horizon=8)
FOCUS = AllocatorConfig(allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0)
SESSION = SessionConfig("disk", mc_session_lod=3, mc_infer_refocus_interval=8, allocator=FOCUS)
LONGEST = 20_000  # tokens, after which another session is begun
_REPORT = struct.Struct("<qq")  # number of the session, its tokens in the tree


@dataclass
class SessionCrash:
    """Kill a process that reads and decodes with a session; no committed block may be lost, no layout illegal."""

    kills: int = flag(200, "random kills", unit="processes")
    seed: int = flag(0, "seed of the random choices")
    gistnet_type: Literal["transformer", "layered"] = flag("transformer", "type of gists; layered = keys and values of every layer")

    def __post_init__(self) -> None:
        check_choices(self, "gistnet_type")
        if self.kills < 1:
            raise ValueError(f"kills is {self.kills}; it must be at least 1")


def make_store(root: Path, gistnet_type: str = "transformer") -> SessionStore:
    """Session store of a small memory with random weights."""
    model = GPT(SHAPE).init_weights(torch.Generator().manual_seed(0))
    config = dataclasses.replace(MEMORY, gist=GistConfig(gistnet_type=gistnet_type))
    memory = MemoryModel(model, config, SHAPE.max_seq_len).init_weights(torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for net in (memory.gistnet, memory.lensnet):
            for parameter in net.parameters():
                parameter.normal_(std=(0.1 if memory.layered else 1.0) * [1, *parameter.shape][-1] ** -0.5, generator=generator)
    return SessionStore(memory.requires_grad_(False).eval(), IDENTITY, SESSION, root)


def history() -> Tensor:
    """Tokens that every session has a prefix of."""
    return torch.randint(SHAPE.vocab_size, (LONGEST + 1000,), generator=torch.Generator().manual_seed(3))


def writer(store: SessionStore, tokens: Tensor, seed: int) -> Callable[[int], None]:
    """Body of the process that is killed."""

    def body(pipe: int) -> None:
        rng = random.Random(seed)
        number = max([0, *(int(info.name) for info in store.list())])
        session = store.open(str(number))
        cache = MemoryKVCache(store.memory.model, [session])
        while True:
            os.write(pipe, _REPORT.pack(number, session.tree.length))
            if session.length > LONGEST:
                store.close(str(number))
                number += 1
                session = store.open(str(number))
                cache = MemoryKVCache(store.memory.model, [session])
            at, chance = session.length, rng.random()
            if chance < 0.1:
                session.save()
            elif chance < 0.3:
                cache.append(tokens[None, at : at + rng.randrange(1, 700)])
            else:
                cache.append(tokens[None, at : at + 1])

    return body


def after_kill(store: SessionStore, tokens: Tensor, reports: dict[int, int]) -> dict[str, int]:
    """Opens all sessions and compares them with the `reports`; the newest one is left to be continued."""
    infos = sorted(store.list(), key=lambda info: int(info.name))
    found = {
        "sessions": len(infos),
        "lost": sum(not store.exists(str(number)) for number in reports),
        "illegal": 0,
        "wrong": 0,
        "refocuses": 0,
    }
    for info in infos:
        session = store.open(info.name)
        block = session.tree.spec.geometry.block_size
        found["lost"] += session.tree.length // block < reports.get(int(info.name), 0) // block
        found["wrong"] += not _holds(session, tokens)
        session.refocus()
        found["refocuses"] += session.figures.refocuses
        try:
            spec, budget = session.tree.spec, session.budget
            recent = min(budget.recent, session.length)
            check(session.context.layout, spec.geometry, end=session.length, max_entries=budget.most, recent=recent, max_lod=spec.max_lod)
        except ValueError:
            found["illegal"] += 1
        store.close(info.name)
    for info in infos[:-1]:
        store.delete(info.name)
    return found


@torch.no_grad()
def _holds(session: Session, tokens: Tensor) -> bool:
    """True if its tokens are the beginning of `tokens`, and its gists those of these tokens."""
    tree, memory = session.tree, session.memory
    length, geometry = tree.length, tree.spec.geometry
    if not torch.equal(tree.tokens(0, length), tokens[:length]):
        return False
    if isinstance(session, LayeredSession):
        return _merges(session)
    row = build(memory.model.embed(tokens[None, :length]), memory.gistnet, BankShape(length, length, geometry, tree.spec.max_lod))
    begin = length
    for level in range(1, tree.spec.max_lod + 1):
        nodes = tree.nodes(level)
        expected = row.x[0, begin : begin + nodes * geometry.slots].view(nodes, geometry.slots, SHAPE.width)
        if nodes and not torch.allclose(tree.gists(level, torch.arange(nodes)), expected, rtol=0, atol=1e-4):
            return False
        begin += nodes * geometry.slots
    return True


def _merges(session: LayeredSession) -> bool:
    """True if its gists are finite, and those of level ≥ 2 are made of those below; what level 1 is made of depends on the focus then."""
    tree, packing, net = session.tree, session.packing, session.memory.gistnet
    K, good = tree.spec.geometry.block_size, True
    for level in range(1, tree.spec.max_lod + 1):
        gists = tree.gists(level, torch.arange(tree.nodes(level)))
        good &= bool(gists.isfinite().all())
        if level > 1 and len(gists):
            below = tree.gists(level - 1, torch.arange(len(gists) * K)).unflatten(0, (-1, K)).flatten(1, 2)
            made = packing.packed(net.of_gists(packing.unpacked(below, torch.float32), level), tree.spec.dtype)
            good &= torch.allclose(made.float(), gists.float(), rtol=0.02, atol=0.02)
    return good


def main(argv: list[str] | None = None) -> int:
    """Kills, reopens and compares; returns the exit code."""
    config = parse(SessionCrash, argv)
    torch.set_num_threads(1)
    rng, tokens = random.Random(config.seed), history()
    totals = {"kills": config.kills, "sessions": 0, "lost": 0, "illegal": 0, "wrong": 0, "refocuses": 0}
    longest = 0
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), config.gistnet_type)
        for _ in range(config.kills):
            pid, reader = in_child(writer(store, tokens, rng.randrange(1 << 30)))
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the kill
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                data = pipe.read(_REPORT.size)  # its session is open
                time.sleep(rng.uniform(0.0, 0.3))
                os.kill(pid, signal.SIGKILL)
                if os.waitpid(pid, 0)[1] != signal.SIGKILL:
                    raise RuntimeError("the writer ended before it was killed")
                data += pipe.readall()
            reports = dict(_REPORT.iter_unpack(data[: len(data) // _REPORT.size * _REPORT.size]))
            longest = max(longest, *reports.values(), 0)
            for name, value in after_kill(store, tokens, reports).items():
                totals[name] += value
    result: dict[str, int | bool] = {**totals, "longest": longest}
    result["ok"] = longest > 0 and not (result["lost"] or result["illegal"] or result["wrong"])
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    run(main)
