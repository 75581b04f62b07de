"""Part `machine`: device, versions, and the attention backend that training chooses."""

from __future__ import annotations

import platform

import torch

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.common import UserError
from nanochat.profiling.device_memory import GIB, device_memory
from nanochat.runtime.device import RuntimeFlags, start


def run(lab: Lab, record: Record) -> None:
    """Raises `UserError` without a GPU, unless the size is toy."""
    if not lab.toy and not torch.cuda.is_available():
        raise UserError("no CUDA device here; --toy runs every part on a CPU")
    runtime = start(RuntimeFlags(device_type=lab.device_type))
    record.report("runtime", runtime.describe())
    record.report("python", platform.python_version())
    record.report("torch", torch.__version__)
    available = device_memory(runtime.device)
    record.report("device memory", None if available is None else available / GIB, "GiB")
    if lab.toy:
        record.skip("peak FLOP/s", "no peak is known for a CPU")
        return
    record.report("CUDA of torch", torch.version.cuda)
    record.report("compute capability", ".".join(map(str, torch.cuda.get_device_capability())))
    record.report("peak FLOP/s", runtime.peak_flops, "" if runtime.peak_flops else "not in nanochat/runtime/peak_flops.py")
    free, total = torch.cuda.mem_get_info()
    record.at_least("free device memory", free / total, 0.9, "share; others on this GPU disturb what is measured")
