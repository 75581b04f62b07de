"""One of three processes that train a few parameters on made-up gradients: `python optim_worker.py OUT RANK PORT…`

Every number of processes follows the same trajectory, because the mean of their gradients is the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.optim import MuonAdamW, ParamGroup

# Stacks that divide over no, one and two processes; a table that is split by 2 and 3, one only by 2, one by none, small ones.
MATRICES = {"a": (8, 16), "b": (8, 16), "c": (8, 16), "d": (8, 16), "single": (16, 8), "e": (5, 5), "f": (5, 5)}
TABLES = {"by_6": (3072, 24), "by_2": (4096, 17), "odd": (4097, 17), "small": (30, 4), "one": (1,), "scalar": ()}
LIMIT = 200.0  # clips some of the steps
HALF, WHOLE = 3, 6  # steps
PHASES = [(2, [1]), (3, [1, 2, 3]), (2, [3])]  # (processes, those whose state they go on from)
SKIPPED = 1  # the step whose loss is not finite


def parameters() -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(5)
    return {name: nn.Parameter(torch.randn(shape, generator=g)) for name, shape in (MATRICES | TABLES).items()}


def build(params: dict[str, nn.Parameter]) -> MuonAdamW:
    muon = ParamGroup("muon", [(n, params[n]) for n in MATRICES], lr=0.05, weight_decay=0.3)
    return MuonAdamW([muon, ParamGroup("adamw", [(n, params[n]) for n in TABLES], lr=0.02, weight_decay=0.1)])


def train(o: MuonAdamW, params: dict[str, nn.Parameter], steps: range, rank: int, world: int) -> list[float]:
    """Gradient norms of the steps."""
    norms = []
    for step in steps:
        g = torch.Generator().manual_seed(100 + step)
        size = 1 + 0.3 * step
        for p in params.values():
            mean, apart = torch.randn(p.shape, generator=g), torch.randn(p.shape, generator=g)
            p.grad = size * (mean + (rank - (world - 1) / 2) * apart)
        if step == SKIPPED:
            params["a"].grad[0, 0] = params["by_6"].grad[0, 0] = params["one"].grad[0] = float("nan")
        o.reduce_gradients()
        norms.append(o.clip_gradients(LIMIT).item())
        o.step(lr=1 - step / 10, momentum=0.8 + step / 50, keep=torch.tensor(float(step != SKIPPED)))
    return norms


def everything(o: MuonAdamW, params: dict[str, nn.Parameter], norms: list[float]) -> dict[str, Tensor]:
    state = {f"state.{name}": t for name, t in o.state_tensors().items()}
    return {name: p.detach() for name, p in params.items()} | state | {"norms": torch.tensor(norms)}


def state_in(files: list[Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, union of the state) of what the processes of a run left."""
    found: dict[str, Tensor] = {}
    for file in files:
        found |= load_file(file)
    state = {n.removeprefix("state."): t for n, t in found.items() if n.startswith("state.")}
    return {n: found[n] for n in MATRICES | TABLES}, state


def resume(o: MuonAdamW, params: dict[str, nn.Parameter], files: list[Path]) -> None:
    saved, state = state_in(files)
    for name, p in params.items():
        p.data.copy_(saved[name])
    o.load_state_tensors(state)


def main(out: Path, rank: int, ports: list[int]) -> None:
    """In every phase: trains the first half, and the second from what N processes saved; leaves OUT/<processes>/{fresh,from_N}."""
    for (world, sources), port in zip(PHASES, ports, strict=True):
        if rank >= world:
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        runtime = start(RuntimeFlags(device_type="cpu"))  # waits for the others
        for source in [None, *sources]:
            params = parameters()
            o = build(params)
            if source is not None:
                files = sorted((out / str(source) / "fresh").glob("*"))
                resume(o, params, [files[0], files[rank]] if source == world else files)
            norms = train(o, params, range(HALF) if source is None else range(HALF, WHOLE), runtime.rank, runtime.world_size)
            folder = out / str(world) / ("fresh" if source is None else f"from_{source}")
            folder.mkdir(parents=True, exist_ok=True)
            save_file(everything(o, params, norms), folder / f"{rank}.safetensors")
            runtime.barrier()
        runtime.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(a) for a in sys.argv[3:]])
