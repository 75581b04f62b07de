"""Says what a base training will need of each device's memory, without starting it: for another machine than this one, too."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from mc.device_memory import Foresight, foresee
from nanochat import flags
from nanochat.common import UserError
from nanochat.flags import flag, part
from nanochat.model.attention import choose_backend
from nanochat.profiling.device_memory import GIB
from nanochat.runtime.device import Precision, Runtime, detect_precision, find_device
from scripts.base_train import BaseTrain, make_plan, model_config


@dataclass
class EstimateMemory:
    """Estimate the device memory of a base training, which takes the same flags."""

    train: BaseTrain = part(BaseTrain)
    vocab_size: int = flag(32768, "vocabulary of the tokenizer, special tokens included", unit="tokens")
    processes: int = flag(1, "processes, each on a device of its own", unit="processes")
    device_memory: float = flag(0.0, "memory of a device; 0 = what there is in this machine", unit="GiB")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.device_memory < math.inf:
            raise ValueError(f"device_memory is {self.device_memory}; it must be a number of GiB")


def main(argv: list[str] | None = None) -> int:
    """Prints the estimate and the largest batch that fits; returns 1 where what is asked for does not.

    Raises `UserError` where base_train would refuse to start.
    """
    recipe = flags.parse(EstimateMemory, argv)
    foresight = look_ahead(recipe)
    if recipe.train.check_memory:
        foresight.check()
    print(foresight.describe())
    if foresight.available is None:
        return 0
    largest = foresight.largest_that_fits()
    print("no batch fits" if largest is None else f"largest that fits: --device-batch-size {largest}")
    return 0 if foresight.at(recipe.train.trainer.device_batch_size).fits(foresight.available) else 1


def look_ahead(recipe: EstimateMemory) -> Foresight:
    """The estimate of `recipe`. Raises `UserError` where its batch does not divide over the processes."""
    train = recipe.train
    runtime = imagine(train, recipe.processes)
    config = model_config(train, recipe.vocab_size, runtime)
    batch = make_plan(train, config, runtime).total_batch_size
    memory = train.memory if train.mc else None
    foresight = foresee(config, memory, train.trainer.device_batch_size, batch, runtime, train.chunked_ce)
    return dataclasses.replace(foresight, available=int(recipe.device_memory * GIB)) if recipe.device_memory else foresight


def imagine(train: BaseTrain, processes: int) -> Runtime:
    """The process that the training would run in. A GPU that is not here is taken to have native bf16 and FlexAttention."""
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
