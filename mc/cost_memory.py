"""The peak memory of a process that holds one history, measured in a process of its own: what was freed before would hide it."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from mc.config import SessionConfig
from mc.loading import load_controller
from mc.session.disk_tree import DiskTree
from mc.session.session import MCSession, session_spec
from mc.session.tree import MegaContextTree, RamTree
from mc.session.tree_builder import PIECE
from nanochat.checkpoint.load_model import Stage
from nanochat.common import UserError
from nanochat.infer.engine import Engine
from nanochat.infer.memory_kv_cache import MemoryCache
from nanochat.infer.sampling import Sampling
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.tracking.sinks import peak_memory_mib


class Which(NamedTuple):
    """A memory in a checkpoint, and the device it runs on."""

    stage: Stage
    tag: str
    step: int
    device_type: str


def peak_of(which: Which, config: SessionConfig, kind: Literal["ram", "disk"], length: int, root: Path) -> float:
    """MiB that a process has at most which reads `length` tokens into a new session and decodes behind them.

    The tokens are random; a disk tree lies in `root` as long as it takes. Raises `UserError` where the process is killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, which, config, kind, length, root).result()
        except BrokenProcessPool as error:
            raise UserError(f"a process with {length:,} tokens of history was killed, for want of memory perhaps; give --quick") from error


@torch.no_grad()
def _peak(which: Which, config: SessionConfig, kind: Literal["ram", "disk"], length: int, root: Path) -> float:
    runtime = start(RuntimeFlags(device_type=which.device_type, compile=False))
    where = (runtime.device, runtime.precision.dtype, runtime.backend)
    controller = load_controller(which.stage, which.tag, which.step, *where, lambda _: None).controller
    spec, model = session_spec(controller, config), controller.model
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        tree: MegaContextTree = RamTree(spec, runtime.device)
        if kind == "disk":
            tree = DiskTree.create(Path(folder) / "history", {"made_by": "mc_eval"}, spec)
        session = MCSession(controller, tree, config)
        for begin in range(0, length - 1, PIECE):
            session.append(torch.randint(spec.vocab_size, (min(PIECE, length - 1 - begin),), generator=generator))
        cache, engine = MemoryCache(model, [session]), Engine(model)
        hidden = cache.append(torch.zeros(1, 1, dtype=torch.int64))
        decoded = Sampling(temperature=0, max_tokens=2 * config.mc_infer_refocus_interval)
        for _ in engine.resume(cache, hidden, decoded):
            pass
        session.close()
    return peak_memory_mib(runtime.device)
