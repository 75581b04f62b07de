"""Estimates the device memory of a base training without starting it, also for another machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from mc.device_memory import Foresight
from nanochat import flags
from nanochat.common import UserError
from nanochat.flags import check, flag, part
from nanochat.model.attention import choose_backend
from nanochat.profiling.device_memory import GIB
from nanochat.runtime.device import Precision, Runtime, detect_precision, find_device
from scripts.base_train import BaseTrain, estimate_memory


@dataclass
class EstimateMemory:
    """Estimate the device memory of a base training with the same flags."""

    train: BaseTrain = part(BaseTrain)
    vocab_size: int = flag(32768, "vocabulary size, including special tokens", unit="tokens")
    processes: int = flag(1, "number of processes, each on its own device", unit="processes")
    device_memory: float = flag(0.0, "memory of a device; 0 = that of this machine", unit="GiB")

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "must be at least 1", "vocab_size", "processes")
        check(self, lambda value: 0 <= value < math.inf, "must be a number of GiB", "device_memory")


def main(argv: list[str] | None = None) -> int:
    """Prints the estimate and the largest batch that fits; returns 1 if the requested one does not.

    Raises `UserError` if base_train would refuse to start.
    """
    args = flags.parse(EstimateMemory, argv)
    foresight = estimate(args)
    if args.train.check_memory:
        foresight.check()
    print(foresight.describe())
    if foresight.available is None:
        return 0
    largest = foresight.largest_that_fits()
    print("no batch fits" if largest is None else f"largest that fits: --device-batch-size {largest}")
    return 0 if foresight.at(args.train.trainer.device_batch_size).fits(foresight.available) else 1


def estimate(args: EstimateMemory) -> Foresight:
    """The estimate of `args`. Raises `UserError` if its batch does not divide over the processes."""
    foresight = estimate_memory(args.train, args.vocab_size, planned_runtime(args.train, args.processes))
    return dataclasses.replace(foresight, available=int(args.device_memory * GIB)) if args.device_memory else foresight


def planned_runtime(train: BaseTrain, processes: int) -> Runtime:
    """The runtime of the training; a GPU that this machine lacks is assumed to have native bf16 and FlexAttention."""
    wanted = train.runtime
    if wanted.device_type == "cuda" and not torch.cuda.is_available():
        return Runtime(torch.device("cuda"), Precision(torch.bfloat16, "taken to be native"), "flex", wanted.compile, 0, processes)
    device = find_device(wanted.device_type)
    try:
        precision = detect_precision(device)
        backend = choose_backend(wanted.attention, device, precision.dtype)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Runtime(device, precision, backend, wanted.compile, 0, processes)


if __name__ == "__main__":
    flags.run(main)
