"""Lost peers: which process of a run failed, died or hangs, said in one line by each of the others.

A collective operation that fails says no more than that a connection broke. So a process that fails leaves a note in the store by
which the processes found each other, and one whose collective operation failed leaves a note of where it waited. Who has left none
is the one that died or hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch.distributed as dist

from nanochat.common import UserError, first_line
from nanochat.runtime.peers import ranks_of

GRACE_SECONDS = 3.0  # for the notes of the others
CLOSING_SECONDS = 0.3  # in which the sockets of a process that dies close one after the other
RESUME = "run again to resume"


@dataclass(frozen=True)
class Note:
    """How a process ended: by an error of its own, or because a collective operation `broke` or `timed out`; the error or the place."""

    how: Literal["failed", "broke", "timed out"]
    text: str


class LostCollective(RuntimeError):
    """Failure of a collective operation that went on in the background, named `what`."""

    def __init__(self, what: str, error: RuntimeError) -> None:
        super().__init__(str(error))
        self.what = what


class PeerWatch:
    """Context manager around all that the processes of a run do together; without a `store` it does nothing.

    Raises `UserError` that names the lost process in place of the error of a failed collective operation.
    """

    def __init__(self, store: dist.Store | None, rank: int, hosts: Sequence[str], timeout_seconds: int) -> None:
        self.store, self.rank, self.hosts, self.timeout = store, rank, hosts, timeout_seconds

    def __enter__(self) -> PeerWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or self.store is None:
            return
        place = failed_collective(error)
        if place is None:
            self._leave(Note("failed", first_line(error)))
            return
        mine = Note("timed out" if "timed out" in str(error).lower() else "broke", place)
        time.sleep(CLOSING_SECONDS)
        self._leave(mine)
        raise UserError(self._verdict(self._notes(mine))) from error

    def _leave(self, note: Note) -> None:
        if self._store_answers():
            self.store.set_timeout(timedelta(seconds=GRACE_SECONDS))
            with contextlib.suppress(dist.DistError):
                self.store.set(str(self.rank), json.dumps(asdict(note)))

    def _notes(self, mine: Note) -> dict[int, Note]:
        """Notes by rank, those of the others as far as they come in time."""
        notes, deadline = {self.rank: mine}, time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(dist.DistError):
            while len(notes) < len(self.hosts) and time.monotonic() < deadline and self._store_answers():
                for rank in set(range(len(self.hosts))) - notes.keys():
                    if self.store.check([str(rank)]):
                        notes[rank] = Note(**json.loads(self.store.get(str(rank))))
                time.sleep(0.05)
        return notes

    def _store_answers(self) -> bool:
        """Whether the process that has the store lives; asked of one that does not, torch prints its own stack."""
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        with contextlib.suppress(OSError), socket.create_connection(address, GRACE_SECONDS):
            return True
        return False

    def _verdict(self, notes: dict[int, Note]) -> str:
        place = notes[self.rank].text
        for rank, note in sorted(notes.items()):
            if note.how == "failed":
                return f"{self._name([rank])} failed while this process waited for it in {place}: {note.text}; then {RESUME}"
        silent = [rank for rank in range(len(self.hosts)) if rank not in notes]
        if not silent:
            waited = ", ".join(f"{self._name([rank])} in {note.text}" for rank, note in sorted(notes.items()))
            return f"the connection between the processes is lost, or they waited for different things: {waited}; {RESUME}"
        if any(note.how == "timed out" for note in notes.values()):
            return (
                f"{self._name(silent)} did not come to {place} within {self.timeout} s; see what it does there, end it and {RESUME} "
                "(--collective-timeout waits longer)"
            )
        return f"{self._name(silent)} died while this process waited for it in {place}; its machine's log may say why; {RESUME}"

    def _name(self, ranks: list[int]) -> str:
        return f"{ranks_of(ranks)} on {', '.join(sorted({self.hosts[rank] for rank in ranks}))}"


def failed_collective(error: BaseException) -> str | None:
    """Operation and place, such as `all_reduce (trainer.py:203)`, if a collective operation raised `error`."""
    frames = [(frame.f_globals.get("__name__", ""), frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    background = error.what if isinstance(error, LostCollective) else None
    if not isinstance(error, RuntimeError) or not frames or not (background or frames[-1][0].startswith("torch.distributed")):
        return None
    code, line = next((code, line) for module, code, line in reversed(frames) if not module.startswith("torch."))
    named = (code.co_name for module, code, _ in frames if module == dist.distributed_c10d.__name__)
    operation = background or next(named, "a collective operation")
    return f"{operation} ({Path(code.co_filename).name}:{line})"
