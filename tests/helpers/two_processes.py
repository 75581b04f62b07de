"""Programs that run in two processes of one group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def in_two_processes(root: Path, program: str) -> list[list[str]]:
    """What `program`, Python that joins the group by itself, prints as rank 0 and as rank 1: words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(root)
    workers = [
        subprocess.Popen([sys.executable, "-c", program], env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [worker.communicate(timeout=100)[0].split() for worker in workers]
