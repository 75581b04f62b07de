"""Shared folder: the check that all processes of a run write to the same one."""

from __future__ import annotations

import platform
import secrets
import time
from pathlib import Path

from nanochat.common import UserError, atomic_write, ensure_dir
from nanochat.runtime.peers import gather_json

WAIT_SECONDS = 3.0  # for a disk over a network to show a new file


def check_shared(folder: Path, rank: int) -> None:
    """Checks that `folder` is one for all processes, by a file that the first process writes there. A collective call.

    Raises `UserError` in each process if one does not see the file: checkpoints have parts of all processes, and any process may
    read each of them.
    """
    name = ""
    if rank == 0:
        name = f".shared-{secrets.token_hex(8)}"
        atomic_write(ensure_dir(folder) / name, "")
    name = gather_json(name)[0]
    everyone = gather_json([platform.node(), str(folder), _appears(folder / name)])
    if rank == 0:
        (folder / name).unlink(missing_ok=True)
    for other, (host, place, sees) in enumerate(everyone):
        if not sees:
            raise UserError(
                f"rank {other} on {host} does not share the base folder of rank 0: {place} there is not {everyone[0][1]} on "
                f"{everyone[0][0]}; give all machines one shared folder and set NANOCHAT_BASE_DIR to it"
            )


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
