"""Process under torchrun: `torchrun … -m bench.acceptance.group_worker RESULT FLAGS…` joins the process group and trains.

Writes to the file RESULT, as JSON, which collective operations gave what they should.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat import flags
from nanochat.common import write_json
from nanochat.runtime.device import _join, find_device
from nanochat.runtime.lost_peer import PeerWatch
from nanochat.runtime.peers import gather_json
from scripts.base_train import main as train

TIMEOUT_SECONDS = 60


def main() -> int:
    """Tries the operations, leaves the group, and trains as every process under torchrun does."""
    result, *argv = sys.argv[1:]
    device_type = next(flag.partition("=")[2] for flag in reversed(argv) if flag.startswith("--device-type="))
    rank, local, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    device = find_device(device_type, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    hosts, store = _join(device, rank, world, TIMEOUT_SECONDS)
    with PeerWatch(store, rank, hosts, TIMEOUT_SECONDS):
        backend = dist.get_backend_config()
        write_json(Path(result), {"world": world, "backend": backend, "operations": dict(operations(device))})
    dist.destroy_process_group()
    return train(argv)


def operations(device: torch.device) -> Iterator[tuple[str, bool]]:
    """(operation, whether it gave what it should) for those that training uses; all numbers are those of a group of one."""
    values = torch.arange(1024, device=device, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        given, got = values.to(dtype), torch.zeros(1024, device=device, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        pending = dist.all_reduce(got.copy_(given), async_op=True)
        pending.wait()
        yield f"all-reduce, {name}", torch.equal(got, given)
        reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # the name before torch 2.13
        reduce_scatter(got.zero_(), given)
        yield f"reduce-scatter, {name}", torch.equal(got, given)
        all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name before torch 2.13
        all_gather(got.zero_(), given)
        yield f"all-gather, {name}", torch.equal(got, given)
        dist.broadcast(got.copy_(given), src=0)
        yield f"broadcast, {name}", torch.equal(got, given)
        dist.reduce(got.copy_(given), dst=0)
        yield f"reduce, {name}", torch.equal(got, given)
        dist.all_to_all_single(got.zero_(), given, [1024], [1024])
        yield f"all-to-all, {name}", torch.equal(got, given)
    yield "text, on the CPU", gather_json({"a": "ä"}) == [{"a": "ä"}]
    dist.barrier()
    yield "barrier", True


if __name__ == "__main__":
    flags.run(main)
