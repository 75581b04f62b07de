"""Part `torchrun`: one process under torchrun joins a group and trains as one that was started without it."""

from __future__ import annotations

import signal

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat.common import read_json

STEPS = 3
FULL = ("--compile=0", "--depth=4", "--max-seq-len=512", "--device-batch-size=16", f"--total-batch-size={2 * 16 * 512}")
EXACT = (f"--num-iterations={STEPS}", "--deterministic=1")
TORCHRUN = ("--standalone", "--nproc-per-node=1", "-m", "bench.acceptance.group_worker")


def run(lab: Lab, record: Record) -> None:
    """Trains with and without torchrun."""
    alone, grouped = lab.home("alone"), lab.home("grouped")
    result = grouped.base / "group.json"
    result.unlink(missing_ok=True)
    argv = [*grouped.argv, *lab.flags("grouped", FULL), *EXACT]
    process = grouped.begin("torch.distributed.run", *TORCHRUN, str(result), *argv, environment=lab.environment)
    try:
        lab.finish(alone.start(*lab.flags("alone", FULL), *EXACT, environment=lab.environment))
        lab.finish(process)
    finally:
        process.signal(signal.SIGTERM)  # torchrun passes it on; SIGKILL would leave the process that it has started
    found = read_json(result)
    record.equal("processes", found["world"], 1)
    record.equal("NCCL" if not lab.toy else "gloo", ("nccl" if not lab.toy else "gloo") in found["backend"], True, found["backend"])
    for name, right in found["operations"].items():
        record.equal(name, right, True)
    record.equal(
        "trains as without torchrun", grouped.figures() == alone.figures(), True, f"{len(alone.figures())} records, without clocks"
    )
    record.equal(
        "weights are bit-identical", grouped.tensors(STEPS)["model.safetensors"] == alone.tensors(STEPS)["model.safetensors"], True
    )
