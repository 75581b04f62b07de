"""Training speed by the times that idle OpenMP threads look for work before they sleep (GOMP_SPINCOUNT), quiet and beside a busy core.

Each count is a process of its own, and so are passive threads (OMP_WAIT_POLICY=passive), whose speed beside the busy core is the fair
share. In every round all take a turn on the machine as it is, then all beside the busy core; ratios are medians over the rounds of what
was measured in the same round. `nanochat.process.SPIN_COUNT` is chosen by it: at least 0.8 of the fair share, at most 2 % slower than
libgomp's default when quiet.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.train_speed import Side, TrainSpeed, busy_core
from nanochat import flags
from nanochat.common import ROOT
from nanochat.flags import flag, part
from nanochat.process import SPIN_COUNT

DEFAULT, PASSIVE = "300000", "passive"  # libgomp's own count; threads that never spin


@dataclass
class SpinCountFlags:
    """Measure training tokens/s for counts of spins."""

    counts: str = flag(f"0,1000,{SPIN_COUNT},3000,10000,100000", "counts to measure beside libgomp's default, separated by commas")
    speed: TrainSpeed = part(TrainSpeed)

    def __post_init__(self) -> None:
        if not all(count.strip().isdecimal() for count in self.counts.split(",")):
            raise ValueError(f"invalid counts {self.counts!r}: expected whole numbers separated by commas")


def main(argv: list[str] | None = None) -> int:
    """Measures, and prints a table and one line of JSON."""
    config = flags.parse(SpinCountFlags, argv)
    speed = config.speed
    names = [*dict.fromkeys([*(str(int(count)) for count in config.counts.split(",")), DEFAULT]), PASSIVE]
    rates: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "busy": []} for name in names}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = []
        for name in names:
            spins = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"} if name == PASSIVE else {"GOMP_SPINCOUNT": name}
            sides.append(Side(speed, name, Path(folder), ROOT, speed.dtype, **spins))
            stack.callback(sides[-1].close)
            sides[-1].run(2)
        for _ in range(speed.rounds):
            for load in ("quiet", "busy"):
                with busy_core() if load == "busy" else contextlib.nullcontext():
                    for side in sides:
                        rates[side.name][load].append(speed.total_batch_size / median(side.run(speed.steps)["seconds"]))
    result = {
        name: {
            **{f"{load}_tokens_per_s": median(values) for load, values in of.items()},
            "quiet_ratio": _ratio(of["quiet"], rates[DEFAULT]["quiet"]),
            "of_fair_share": _ratio(of["busy"], rates[PASSIVE]["busy"]),
        }
        for name, of in rates.items()
    }
    print(f"{'count':>8s} {'quiet':>9s} {'/ default':>9s} {'busy':>9s} {'/ fair':>9s}")
    for name, row in result.items():
        quiet, busy, ratio, share = row.values()
        print(f"{name:>8s} {quiet:9,.0f} {ratio:9.3f} {busy:9,.0f} {share:9.3f}")
    print(json.dumps({name: {key: round(value, 3) for key, value in row.items()} for name, row in result.items()}))
    return 0


def _ratio(values: list[float], others: list[float]) -> float:
    return median(value / other for value, other in zip(values, others, strict=True))


if __name__ == "__main__":
    flags.run(main)
