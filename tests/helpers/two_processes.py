"""Programs and runs of base_train in two processes of one group, which meet over loopback as those of torchrun do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.tiny_run import Home, new_world
from bench.warm_start import Process


def in_two_processes(root: Path, program: str) -> list[list[str]]:
    """What `program`, Python that joins the group by itself, prints as rank 0 and as rank 1: words."""
    environment = {**os.environ, **new_world(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    workers = [
        subprocess.Popen([sys.executable, "-c", program], env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [worker.communicate(timeout=100)[0].split() for worker in workers]


def start_two(
    home: Home, *flags: str, other: Home | None = None, second: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> list[Process]:
    """Starts the run in two processes; the second one has the base folder of `other`, if given, and more flags, those of `second`."""
    world = new_world() | dict(environment or {})
    places = ((home, flags), (other or home, (*flags, *second)))
    return [place.start(*own, environment=world | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r, (place, own) in enumerate(places)]
