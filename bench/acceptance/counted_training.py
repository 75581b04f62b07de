"""base_train that counts its compilations: `python -m bench.acceptance.counted_training COUNTS METRICS BACKEND FLAGS…`.

After each compilation a line of JSON is appended to the file COUNTS: how many records the file METRICS has by then, and the graphs,
graph breaks and seconds so far.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.acceptance.compiler import Compilations, backend
from nanochat import flags
from nanochat.tracking.sinks import read_metrics
from scripts.base_train import main as train


def main() -> int:
    """Trains."""
    counts, metrics, compiled_by, *argv = sys.argv[1:]

    def write() -> None:
        records = len(read_metrics(Path(metrics))) if Path(metrics).exists() else 0
        now = {"records": records, "graphs": seen.graphs(), "breaks": seen.breaks(), "seconds": seen.seconds()}
        with open(counts, "a", encoding="ascii") as file:
            file.write(json.dumps(now) + "\n")

    seen = Compilations(write)
    with backend(compiled_by):
        return train(argv)


if __name__ == "__main__":
    flags.run(main)
