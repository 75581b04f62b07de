"""Process of one or more parts: `python -m bench.acceptance.worker NAME=MODULE:FUNCTION,… RECORD WORK TOY`; see `bench.gpu_acceptance`."""

from __future__ import annotations

import ctypes
import pkgutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from nanochat import flags


def main() -> int:
    """Runs the parts. SIGTERM ends the processes that they have started."""
    names, record_path, work, toy = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    end_with_parent()
    record = Record(Path(record_path))
    with ExitStack() as stack:
        lab = Lab(bool(int(toy)), Path(work), stack)
        for part in names.split(","):
            name, _, function = part.partition("=")
            print(f"== {name}", flush=True)
            with record.part(name):
                pkgutil.resolve_name(function)(lab, record)
    return 0


def end_with_parent() -> None:
    """Lets the kernel send SIGTERM to this process when its parent has died, however that came."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    flags.run(main)
